"""Energy of an action: what the board drew while the loop ran, over the actions that it executed.

Power between two samples is taken as their mean (the trapezoidal rule); a window from one sample to
the next is a repeat of its own, by which `compare` sees how much the figure wanders. What the board
draws at rest is part of it: a robot pays for that as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from benchmarks.profile_report import Energy
from edge.board_state import BoardState
from edge.safety import Outcome

NO_LOOP = "the loop was not run"
TOO_FEW = "fewer than two readings of power fell into the loop"
NO_ACTIONS = "the arm executed no action of the policy"


def executed(ticks: dict[str, np.ndarray]) -> np.ndarray:
    """Tell which ticks sent a goal of the policy to the bus, whole or clamped; (ticks,) bool."""
    return (ticks["outcome"] >= 0) & (ticks["outcome"] < Outcome.HOLD) & (ticks["chunk"] >= 0)


def energy_per_action(
    idle: Sequence[BoardState],
    loop: Sequence[BoardState],
    ticks: dict[str, np.ndarray] | None,
    *,
    simulated: bool,
) -> Energy:
    """Reduce samples of the board before and during the loop; times on time.monotonic.

    A simulated arm is computed on the same board, which its figure then says.
    """
    idle_mw = _mean([state.total_mw for state in idle])
    note = next((state.power_note for state in reversed([*idle, *loop])), "")
    if ticks is None:
        return Energy(None, NO_LOOP, idle_mw, None, [])
    if not len(ticks["t_s"]) or not executed(ticks).any():
        return Energy(None, NO_ACTIONS, idle_mw, None, [])
    first_s, last_s = float(ticks["t_s"][0]), float(ticks["t_s"][-1])
    inside = [s for s in loop if first_s <= s.t_s <= last_s and s.total_mw is not None]
    if len(inside) < 2:
        missing = any(state.total_mw is None for state in loop)
        return Energy(None, note if missing else TOO_FEW, idle_mw, None, [])
    at_s = ticks["t_s"][executed(ticks)]
    windows_mj, spent_mj, actions = [], 0.0, 0
    for before, after in itertools.pairwise(inside):
        window_mj = (before.total_mw + after.total_mw) / 2 * (after.t_s - before.t_s)
        done = int(((at_s >= before.t_s) & (at_s < after.t_s)).sum())
        spent_mj, actions = spent_mj + window_mj, actions + done
        if done:
            windows_mj.append(window_mj / done)
    included = "idle and the simulator" if simulated else "idle"
    duration_s = inside[-1].t_s - inside[0].t_s
    return Energy(
        mj_per_action=spent_mj / actions if actions else None,
        reason=f"{note}, {included} included" if actions else NO_ACTIONS,
        idle_mw=idle_mw,
        loop_mw=spent_mj / duration_s,
        windows_mj=windows_mj,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
