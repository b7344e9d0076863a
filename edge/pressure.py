"""What weighs on a board: its heat, its clocks, and the deadlines that slip.

Ticks and calls are counted by the threads that run them, without a lock: each count has one writer.
The ladder's thread reads them once a second and turns them into shares of the newest window.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple


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
    calls: int
    late_calls: int
    ticks: int
    late_ticks: int


class Deadlines:
    """Count calls and ticks, and those that came too late."""

    def __init__(self, late_tick_s: float, window_s: float, min_count: int) -> None:
        """Call a tick late from `late_tick_s` on; see `edge.ladder_profile` for the others."""
        self._late_tick_s = late_tick_s
        self._window_s = window_s
        self._min_count = min_count
        self._calls = self._late_calls = self._ticks = self._late_ticks = 0
        self._since_s = -math.inf  # calls that began before are of another pace
        self._past: deque[_Counts] = deque()

    def note_tick(self, late_s: float, missed: int) -> None:
        """Count a tick and the missed ones before it; the control thread's."""
        self._ticks += 1 + missed
        self._late_ticks += missed + (late_s > self._late_tick_s and not missed)

    def note_call(self, started_s: float, ended_s: float, chunk_s: float) -> None:
        """Count a policy call that gave a chunk of `chunk_s`; the policy thread's."""
        if started_s >= self._since_s:
            self._calls += 1
            self._late_calls += ended_s - started_s > chunk_s

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
            past.append(_Counts(now_s, 0, 0, 0, 0))
        first = past[0]
        past.append(now)
        return (
            self._share(now.late_calls - first.late_calls, now.calls - first.calls),
            self._share(now.late_ticks - first.late_ticks, now.ticks - first.ticks),
        )

    def _share(self, late: int, count: int) -> float | None:
        return None if count < self._min_count else late / count

    def _now(self, now_s: float) -> _Counts:
        return _Counts(now_s, self._calls, self._late_calls, self._ticks, self._late_ticks)
