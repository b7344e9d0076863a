"""The control loop's part of a profile: one whole run, reduced to figures and repeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.energy import executed
from benchmarks.errors import ProfileInterruptedError
from benchmarks.loop_bench import row_from_run, run_once
from benchmarks.profile_report import LoopPart
from edge.loop import END_TIME
from edge.profile import Profile
from edge.run import RunResult
from edge.run_options import RunOptions

LATE, TICK, POLICY_CALL = "tick lateness", "tick", "policy call"


@dataclass(frozen=True, slots=True)
class LoopRun:
    """How one run ended, and the columns of its black box."""

    result: RunResult
    ticks: dict[str, np.ndarray]


def run_loop_once(options: RunOptions, profile: Profile, say: Callable[[str], None]) -> LoopRun:
    """Run the robot once; `ProfileInterruptedError` when a signal ended it."""
    result, ticks = run_once(options, profile, say)
    if result.signal_number is not None:
        raise ProfileInterruptedError(result.signal_number, len(ticks["t_s"]))
    return LoopRun(result, ticks)


def loop_part(run: LoopRun, task: str, depth: str, profile: Profile) -> LoopPart:
    """Reduce a run."""
    ticks, calls = run.ticks, run.result.calls
    return LoopPart(
        seconds=float(ticks["t_s"][-1] - ticks["t_s"][0]) if len(ticks["t_s"]) else 0.0,
        task=task,
        depth=depth,
        row=row_from_run(profile.arm.control_hz, run.result, ticks),
        stopped=None if run.result.end.how == END_TIME else run.result.end.reason,
        actions=int(executed(ticks).sum()),
        ladder_level=_highest_level(ticks) if profile.board.ladder else None,
        repeats={
            LATE: _by_second(ticks, "late_s", np.max),
            TICK: _by_second(ticks, "tick_s", np.median),
            POLICY_CALL: [round((call.ended_s - call.started_s) * 1e3, 4) for call in calls],
        },
    )


def _highest_level(ticks: dict[str, np.ndarray]) -> int:
    return int(ticks["level"].max(initial=0))


def _by_second(
    ticks: dict[str, np.ndarray], column: str, reduce: Callable[[np.ndarray], np.floating]
) -> list[float]:
    """Reduce each whole second of ticks to one value, in milliseconds.

    Ticks one after the other are alike, seconds less so: they are what `compare` takes for repeats.
    """
    if not len(ticks["t_s"]):
        return []
    second = (ticks["t_s"] - ticks["t_s"][0]).astype(int)
    measured = np.isfinite(ticks[column])
    return [
        round(float(reduce(ticks[column][inside])) * 1e3, 4)
        for number in range(int(second[-1]))
        if (inside := (second == number) & measured).any()
    ]
