"""When to give something up and when to take it back: the degradation ladder, without a thread.

    ladder = Ladder(profile.board.ladder)
    step = ladder.observe(pressure)          # once a second; a Step, or None

Level 0 is everything; at level k the first k rungs are in effect. Each look goes at most one rung:

- **down** while something presses, `least_step_s` after the last step at the soonest, because heat
  and late calls need time to answer;
- **up** when nothing pressed for `quiet_s`, counted anew after every step, and never while too few
  calls or ticks were counted to say so. A step up that does not last (the next is down again,
  within the quiet time it took) doubles that time, up to `max_quiet_s`, so that a board on the
  edge of what it can do does not swing for ever;
- into a **hold** only for what a hold mends: late deadlines, a board that throttles or is past its
  trip point. Being near the trip point is no reason to stop working;
- out of a hold `hold_quiet_s` after the last of these, however soon after the last step, and never
  while the board says that it throttles. That time does not grow: a hold longer than the arm's
  `max_hold_s` is ended by the safety gate, softly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.ladder_profile import HOLD, LadderProfile, Rung
from edge.pressure import Pressure


@dataclass(frozen=True, slots=True)
class Step:
    """One rung down or up."""

    t_s: float
    from_level: int
    to_level: int
    rung: str  # the name of the one that is given up, or taken back
    reason: str

    @property
    def is_down(self) -> bool:
        """Whether something was given up."""
        return self.to_level > self.from_level

    def text(self, of_levels: int) -> str:
        """Say it in a line."""
        way = f"down to {self.rung}" if self.is_down else f"up again, {self.rung} taken back"
        return f"ladder: {way} (level {self.to_level} of {of_levels}): {self.reason}"


class Ladder:
    """Where on the ladder the runtime stands; one thread."""

    def __init__(
        self,
        profile: LadderProfile,
        clock: Callable[[], float] = time.monotonic,
        rungs: tuple[Rung, ...] | None = None,
    ) -> None:
        """Start at level 0; `rungs` are those of the profile that may be used, None for all."""
        self.rungs = profile.rungs if rungs is None else rungs
        self.level = 0
        self._profile = profile
        self._clock = clock
        self._last: Step | None = None
        self._looked_s: float | None = None
        self._quiet_since_s: float | None = None
        self._patience = 1.0  # by how much quiet times are longer than the profile's

    @property
    def holds(self) -> bool:
        """Whether the arm is to hold."""
        return self.level > 0 and self.rungs[self.level - 1].change == HOLD

    def observe(self, pressure: Pressure) -> Step | None:
        """Look once; return the step that was taken."""
        now_s = self._clock()
        causes = self._causes(pressure)
        is_quiet = not causes and self._is_clear(pressure)
        if self.holds:
            is_quiet = not (pressure.throttled or self._needs_hold(pressure))
        self._keep_quiet_time(now_s, is_quiet)
        last_s = None if self._last is None else self._last.t_s
        if self.holds:
            return self._up(now_s)
        if last_s is not None and now_s - last_s < self._profile.least_step_s:
            return None
        return self._down(now_s, causes, pressure) if causes else self._up(now_s)

    def quiet_time_s(self) -> float:
        """Return for how long nothing may press before the next step up."""
        profile = self._profile
        if self.holds:
            return profile.hold_quiet_s
        return min(profile.quiet_s * self._patience, profile.max_quiet_s)

    def _down(self, now_s: float, causes: list[str], pressure: Pressure) -> Step | None:
        if self.level == len(self.rungs):
            return None
        rung = self.rungs[self.level]
        if rung.change == HOLD and not self._needs_hold(pressure):
            return None
        last = self._last
        if last is not None and not last.is_down:
            since_s = now_s - last.t_s
            if since_s <= self.quiet_time_s():
                self._patience *= 2.0
            elif since_s > self._profile.max_quiet_s:
                self._patience = 1.0
        return self._step(now_s, self.level + 1, rung, "; ".join(causes))

    def _up(self, now_s: float) -> Step | None:
        if self.level == 0 or self._quiet_since_s is None:
            return None
        quiet_s = now_s - self._quiet_since_s
        if quiet_s < self.quiet_time_s():
            return None
        rung = self.rungs[self.level - 1]
        what = "nothing that a hold mends" if self.holds else "nothing"
        return self._step(now_s, self.level - 1, rung, f"{what} pressed for {quiet_s:.0f} s")

    def _step(self, now_s: float, level: int, rung: Rung, reason: str) -> Step:
        self._last = Step(now_s, self.level, level, rung.name, reason)
        self.level = level
        self._quiet_since_s = None
        return self._last

    def _keep_quiet_time(self, now_s: float, is_quiet: bool) -> None:
        """Count quiet only where it was watched: looks farther apart than a window begin anew."""
        gap_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self._looked_s = now_s
        if not is_quiet:
            self._quiet_since_s = None
        elif self._quiet_since_s is None or gap_s > self._profile.window_s:
            self._quiet_since_s = now_s

    def _causes(self, pressure: Pressure) -> list[str]:
        """Name everything that presses, with value and limit."""
        profile, causes = self._profile, []
        if profile.throttled and pressure.throttled:
            why = f" ({pressure.throttle_reason})" if pressure.throttle_reason else ""
            causes.append(f"the board throttles{why}")
        headroom_c = pressure.headroom_c
        if _below(headroom_c, profile.trip_margin_c):
            causes.append(
                f"{headroom_c:.1f} C to the trip point, limit {profile.trip_margin_c:.1f} C"
            )
        if _above(pressure.late_call_share, profile.late_call_share):
            causes.append(
                f"{pressure.late_call_share:.0%} of policy calls took longer than their chunk "
                f"lasts, limit {profile.late_call_share:.0%}"
            )
        if _above(pressure.late_tick_share, profile.late_tick_share):
            causes.append(
                f"{pressure.late_tick_share:.0%} of ticks late or missed, limit "
                f"{profile.late_tick_share:.0%}"
            )
        return causes

    def _is_clear(self, pressure: Pressure) -> bool:
        profile = self._profile
        return not (
            _below(pressure.headroom_c, profile.clear_margin_c)
            or _unknown(pressure.late_call_share, profile.late_call_share)
            or _unknown(pressure.late_tick_share, profile.late_tick_share)
        )

    def _needs_hold(self, pressure: Pressure) -> bool:
        profile = self._profile
        return (
            (profile.throttled and bool(pressure.throttled))
            or (profile.trip_margin_c is not None and _below(pressure.headroom_c, 0.0))
            or _above(pressure.late_call_share, profile.late_call_share)
            or _above(pressure.late_tick_share, profile.late_tick_share)
        )


def _below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


def _unknown(value: float | None, limit: float | None) -> bool:
    return value is None and limit is not None
