"""How much work the runtime does just now: all of it, or what the ladder has left.

Whoever does the work asks for the pace each time; the ladder's thread replaces it whole
(`edge.ladder_watch`). Without a ladder it is FULL_PACE for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edge.ladder_profile import (
    CAMERA_HZ,
    DEPTH_EVERY_CALLS,
    DEPTH_MAX_CELLS,
    DRAFT_WINDOW,
    FLOW_STEPS,
    HOLD,
    MAX_POLICY_HZ,
    SPEED_SHARE,
    Rung,
)


@dataclass(frozen=True, slots=True)
class Effort:
    """What a policy call may spend; None is what the policy was opened with."""

    draft_window: int | None = None  # unsettled depth tokens a pass
    depth_every_calls: int = 1  # depth codes are refreshed at every so many calls
    depth_max_cells: int | None = None  # and so many of them at most, in turn
    flow_steps: int | None = None  # a divisor of those that the bundle was built for


@dataclass(frozen=True, slots=True)
class Pace:
    """What the runtime may do at one level of the ladder; None is what the profile says."""

    level: int = 0  # rungs in effect
    effort: Effort = Effort()
    max_policy_hz: float | None = None
    camera_hz: float | None = None
    speed_share: float = 1.0  # of the arm's speed limits
    hold: str = ""  # why the arm holds and no call is made


FULL_EFFORT, FULL_PACE = Effort(), Pace()


class Pacing(Protocol):
    """Where the pace comes from, and where is told how punctual the work was."""

    pace: Pace

    def note_tick(self, late_s: float, missed: int) -> None:
        """Take note of a control tick and of those missed before it; never blocks."""
        ...

    def note_call(self, started_s: float, ended_s: float, chunk_s: float) -> None:
        """Take note of a policy call and how long its chunk lasts; never blocks."""
        ...

    def news(self) -> Sequence[str]:
        """Return what happened since the last time, in order; never blocks."""
        ...


class Steady:
    """The pace of a runtime without a ladder."""

    pace = FULL_PACE

    def note_tick(self, late_s: float, missed: int) -> None:
        """See `Pacing`."""

    def note_call(self, started_s: float, ended_s: float, chunk_s: float) -> None:
        """See `Pacing`."""

    def news(self) -> Sequence[str]:
        """See `Pacing`."""
        return ()


STEADY = Steady()


def pace_at(rungs: Sequence[Rung], level: int, reason: str = "") -> Pace:
    """Return the pace with the first `level` rungs in effect; `reason` is why it may hold."""
    pace = replace(FULL_PACE, level=level)
    for rung in rungs[:level]:
        pace = _changed(pace, rung, reason)
    return pace


def runnable_flow_steps(built: int) -> tuple[int, ...]:
    """Return the numbers of flow steps that a bundle built for `built` can run exactly.

    Its table holds what modulates the expert at times k / built, and m Euler steps need it at
    k / m: those are among them, to the last bit, when m divides `built`.
    """
    return tuple(steps for steps in range(1, built + 1) if built % steps == 0)


def _changed(pace: Pace, rung: Rung, reason: str) -> Pace:
    effort, whole = pace.effort, int(rung.value)
    if rung.change == DRAFT_WINDOW:
        return replace(pace, effort=replace(effort, draft_window=whole))
    if rung.change == DEPTH_EVERY_CALLS:
        return replace(pace, effort=replace(effort, depth_every_calls=whole))
    if rung.change == DEPTH_MAX_CELLS:
        return replace(pace, effort=replace(effort, depth_max_cells=whole))
    if rung.change == FLOW_STEPS:
        return replace(pace, effort=replace(effort, flow_steps=whole))
    if rung.change == HOLD:
        return replace(pace, hold=f"the ladder holds the arm: {reason}")
    names = {MAX_POLICY_HZ: "max_policy_hz", CAMERA_HZ: "camera_hz", SPEED_SHARE: "speed_share"}
    return replace(pace, **{names[rung.change]: rung.value})
