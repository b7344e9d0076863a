"""Watch the board beside the control loop, and make the runtime give up what the ladder says.

A thread of its own looks once a second, so that reading temperatures never holds up a tick. What it
decides is one reference, `pace`, that the other threads read; what it says goes to the screen from
here, and into the black box from the control thread (`news`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from edge.camera import Camera
from edge.errors import one_line
from edge.ladder import Ladder, Step
from edge.ladder_profile import LadderProfile, Rung
from edge.pace import FULL_PACE, Pace, pace_at
from edge.pressure import Deadlines, Pressure

LOOK_S = 1.0
END_TIMEOUT_S = 1.0


class BoardSigns(Protocol):
    """The part of a board's state that a ladder looks at; None is not known."""

    headroom_c: float | None  # least that any zone is below its own throttling trip point
    throttled: bool | None
    throttle_reason: str


class LadderWatch:
    """The ladder of one run, behind the protocol `edge.pace.Pacing`."""

    def __init__(
        self,
        profile: LadderProfile,
        rungs: tuple[Rung, ...],
        left_out: Sequence[str],
        read_board: Callable[[], BoardSigns],
        cameras: Sequence[Camera],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the rungs that may be used, and why others may not; `tell` must not block."""
        self.pace: Pace = FULL_PACE
        self.steps: list[Step] = []
        self.problem: str | None = None  # why nobody looks any more
        self._ladder = Ladder(profile, clock, rungs)
        self._left_out = tuple(left_out)
        self._deadlines = Deadlines(profile.late_tick_s, profile.window_s, profile.min_count)
        self._read_board = read_board
        self._cameras = cameras
        self._tell = tell
        self._clock = clock
        self._news: deque[str] = deque()
        self._started_s = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ladder", daemon=True)
        self.note_tick = self._deadlines.note_tick
        self.note_call = self._deadlines.note_call

    def lines(self) -> list[str]:
        """Say which rungs there are, and why others are not used."""
        names = ", ".join(rung.name for rung in self._ladder.rungs) or "no rung can be used"
        return [f"ladder: {line}" for line in (names, *self._left_out)]

    def start(self) -> None:
        """Begin to look."""
        self._started_s = self._clock()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; the pace stays as it is."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(END_TIMEOUT_S)

    def news(self) -> Sequence[str]:
        """See `edge.pace.Pacing`."""
        if not self._news:
            return ()
        return [self._news.popleft() for _ in range(len(self._news))]

    def look(self) -> Step | None:
        """Read the board and the deadlines once, and do what the ladder says."""
        signs, now_s = self._read_board(), self._clock()
        late_calls, late_ticks = self._deadlines.shares(now_s)
        step = self._ladder.observe(
            Pressure(
                headroom_c=signs.headroom_c,
                throttled=signs.throttled,
                throttle_reason=signs.throttle_reason,
                late_call_share=late_calls,
                late_tick_share=late_ticks,
            )
        )
        if step is not None:
            self._take(step)
        return step

    def record(self) -> dict[str, Any]:
        """Return what the ladder did, as a report has it; seconds are since the start."""
        return {
            "rungs": [rung.name for rung in self._ladder.rungs],
            "left_out": list(self._left_out),
            "level": self._ladder.level,
            "steps": [
                {
                    "at_s": round(step.t_s - self._started_s, 3),
                    "from_level": step.from_level,
                    "to_level": step.to_level,
                    "rung": step.rung,
                    "reason": step.reason,
                }
                for step in self.steps
            ],
            "problem": self.problem,
        }

    def _take(self, step: Step) -> None:
        rungs = self._ladder.rungs
        pace = pace_at(rungs, step.to_level, step.reason)
        if pace.camera_hz != self.pace.camera_hz:
            for camera in self._cameras:
                camera.limit_rate(pace.camera_hz)
        self.pace = pace
        self._deadlines.forget(step.t_s)
        self.steps.append(step)
        self._say(step.text(len(rungs)))

    def _say(self, line: str) -> None:
        self._news.append(line)
        self._tell(line)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - not to continue: the pace stays as it is
                kind = type(error).__name__
                self.problem = f"nobody watches the board any more: {kind}: {one_line(error)}"
                self._say(f"ladder: {self.problem}")
                return
