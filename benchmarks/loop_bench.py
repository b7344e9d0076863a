"""Runs a bundle as `molmoact-edge run` does, at several control rates, and times its ticks.

    molmoact-bench loop bundle --profile sim --seconds 20

Every rate is a whole run: simulator or arm, cameras, policy thread, watchdog, safety gate. Only the
profile's `control_hz` is another.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge.cli import open_servo_arms
from edge.policy_thread import PolicyCall
from edge.profile import PORT_SIMULATED, Profile, load_profile
from edge.report import SERVOS_EMULATED, SERVOS_REAL, machine_name
from edge.run import RunResult, run_robot
from edge.run_options import RunOptions
from edge.safety import Outcome


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds over ticks; None where there were none."""

    p50: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class LoopRow:
    """One rate."""

    control_hz: float
    ticks: int
    missed: int
    failed_reads: int
    held: int  # ticks in which the gate held the arm
    late_ms: Spread  # a tick's start after its deadline
    tick_ms: Spread  # read, gate, write
    camera_to_command_ms: Spread  # from the picture behind a goal to the goal on the bus
    policy_calls: int
    policy_call_ms: Spread
    real_time: list[str]  # what the operating system granted and refused
    ended: str


@dataclass(frozen=True, slots=True)
class LoopReport:
    """Everything `print_loop` prints, and the JSON line."""

    machine: str
    servos: str  # emulated or real
    bundle: str
    recipe: str
    profile: str
    seconds: float
    task: str
    depth: str
    rows: list[LoopRow]
    signal_number: int | None  # that ended the series early
    policy_hangs: bool  # a call did not come back, which ended the series too

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"bench": "loop", **asdict(self)}


def measure_loop(
    options: RunOptions, profile_name: str, rates_hz: Sequence[float], say: Callable[[str], None]
) -> LoopReport:
    """Run once for each rate, `options.seconds` each; EdgeError when a run cannot start.

    Ends early, with what there is, when a signal came.
    """
    profile = load_profile(profile_name)
    rows: list[LoopRow] = []
    recipe, signal_number, policy_hangs = "", None, False
    for rate_hz in rates_hz:
        say(f"{rate_hz:g} Hz for {options.seconds:g} s")
        result, ticks = run_once(options, at_rate(profile, rate_hz), say)
        recipe = result.report["card"]["recipe"]
        rows.append(row_from_run(rate_hz, result, ticks))
        signal_number, policy_hangs = result.signal_number, result.policy_hangs
        if signal_number is not None or policy_hangs:
            break
    return LoopReport(
        machine=machine_name(),
        servos=SERVOS_EMULATED if profile.port == PORT_SIMULATED else SERVOS_REAL,
        bundle=str(options.bundle),
        recipe=recipe,
        profile=profile.name,
        seconds=options.seconds,
        task=options.task,
        depth=options.depth,
        rows=rows,
        signal_number=signal_number,
        policy_hangs=policy_hangs,
    )


def at_rate(profile: Profile, rate_hz: float) -> Profile:
    """Return the profile with another control rate."""
    return replace(profile, arm=replace(profile.arm, control_hz=rate_hz))


def row_from_run(rate_hz: float, result: RunResult, ticks: dict[str, np.ndarray]) -> LoopRow:
    """Reduce one run; `ticks` are the columns of its black box."""
    counts = result.report["ticks"]
    calls_s = np.array([call.ended_s - call.started_s for call in result.calls])
    return LoopRow(
        control_hz=rate_hz,
        ticks=counts["run"],
        missed=counts["missed"],
        failed_reads=counts["read_errors"],
        held=result.report["safety"]["hold"],
        late_ms=_spread(ticks["late_s"]),
        tick_ms=_spread(ticks["tick_s"]),
        camera_to_command_ms=_spread(camera_to_command_s(ticks, result.calls)),
        policy_calls=len(result.calls),
        policy_call_ms=_spread(calls_s),
        real_time=result.report["real_time"],
        ended=result.end.reason,
    )


def camera_to_command_s(ticks: dict[str, np.ndarray], calls: Sequence[PolicyCall]) -> np.ndarray:
    """Return how old the picture behind each goal was when the goal was on the bus.

    Of ticks that followed a chunk; of several cameras the oldest picture. The chunk that a policy
    call made has the call's number.
    """
    taken_s = {call.number: call.started_s - max(call.frame_ages_s) for call in calls}
    followed = (ticks["outcome"] >= 0) & (ticks["outcome"] < Outcome.HOLD)
    return np.array(
        [
            written_s - taken_s[int(chunk)]
            for written_s, chunk in zip(
                ticks["written_s"][followed], ticks["chunk"][followed], strict=True
            )
            if int(chunk) in taken_s
        ]
    )


def run_once(
    options: RunOptions, profile: Profile, say: Callable[[str], None]
) -> tuple[RunResult, dict[str, np.ndarray]]:
    """Run once; give the result and every tick, of which nothing stays on the disk."""
    with tempfile.TemporaryDirectory(prefix="molmoact-bench-") as folder:
        arrays = Path(folder) / "ticks.npz"
        own = replace(options, arrays=arrays, black_box=Path(folder) / "box")
        simulated = profile.port == PORT_SIMULATED
        open_arms = functools.partial(open_servo_arms, simulated=simulated)
        result = run_robot(own, profile, open_arms, lambda line: _pass_on(line, say))
        with np.load(arrays) as file:
            return result, dict(file)


def _pass_on(line: str, say: Callable[[str], None]) -> None:
    """Pass on what a run says, but not where to find a box that is removed."""
    if not line.startswith("black box written"):
        say(line)


def _spread(values_s: np.ndarray) -> Spread:
    if not len(values_s):
        return Spread(None, None, None)
    p50, p99 = np.percentile(values_s, [50, 99])
    return Spread(float(p50) * 1e3, float(p99) * 1e3, float(np.max(values_s)) * 1e3)
