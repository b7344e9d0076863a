"""What weighs on a board: its heat, its clocks, and the deadlines that slip.

Ticks and calls are counted by the threads that run them, without a lock: each count has one writer.
The ladder's thread reads them once a second and turns them into shares of the newest window. A call
may take longer than that: of calls the newest few count, however old.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

FEWEST_CALLS = 4  # a share of fewer says nothing
_CALLS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Pressure:
    """One look; None where it cannot be known."""

    headroom_c: float | None = None  # least that any zone is below its own throttling trip point
    throttled: bool | None = None
    throttle_reason: str = ""
    late_call_share: float | None = None
    late_tick_share: float | None = None


class _Counts(NamedTuple):
    t_s: float
    ticks: int
    late_ticks: int


class _Call(NamedTuple):
    started_s: float
    ended_s: float
    is_late: bool


class Deadlines:
    """Count calls and ticks, and those that came too late."""

    def __init__(self, late_tick_s: float, window_s: float, min_count: int) -> None:
        """Call a tick late from `late_tick_s` on; see `edge.ladder_profile` for the others."""
        self._late_tick_s = late_tick_s
        self._window_s = window_s
        self._min_count = min_count
        self._ticks = self._late_ticks = 0
        self._calls: tuple[_Call, ...] = ()  # the newest, replaced whole
        self._since_s = -math.inf  # calls that began before are of another pace
        self._past: deque[_Counts] = deque()

    def note_tick(self, late_s: float, missed: int) -> None:
        """Count a tick and the missed ones before it; the control thread's."""
        self._ticks += 1 + missed
        self._late_ticks += missed + (late_s > self._late_tick_s and not missed)

    def note_call(self, started_s: float, ended_s: float, chunk_s: float) -> None:
        """Count a policy call that gave a chunk of `chunk_s`; the policy thread's."""
        call = _Call(started_s, ended_s, ended_s - started_s > chunk_s)
        self._calls = (*self._calls, call)[-_CALLS_KEPT:]

    def forget(self, now_s: float) -> None:
        """Begin anew: what was late until now was late at another pace."""
        self._since_s = now_s
        self._past.clear()
        self._past.append(self._now(now_s))

    def shares(self, now_s: float) -> tuple[float | None, float | None]:
        """Return the late shares of calls and of ticks, None while too few were counted."""
        now, past = self._now(now_s), self._past
        while len(past) > 1 and past[1].t_s <= now_s - self._window_s:
            past.popleft()
        if not past:
            past.append(_Counts(now_s, 0, 0))
        first = past[0]
        past.append(now)
        ticks, late_ticks = now.ticks - first.ticks, now.late_ticks - first.late_ticks
        return self._late_calls(now_s), None if ticks < self._min_count else late_ticks / ticks

    def _late_calls(self, now_s: float) -> float | None:
        """Return the late share of the window's calls, or of the newest few if it has fewer."""
        calls = [call for call in self._calls if call.started_s >= self._since_s]
        n_recent = sum(call.ended_s > now_s - self._window_s for call in calls)
        if len(calls) < FEWEST_CALLS:
            return None
        counted = calls[-max(n_recent, FEWEST_CALLS) :]
        return sum(call.is_late for call in counted) / len(counted)

    def _now(self, now_s: float) -> _Counts:
        return _Counts(now_s, self._ticks, self._late_ticks)
