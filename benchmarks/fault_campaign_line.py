"""The line of a campaign: every frame is judged, and the program on it can die at any byte."""

from __future__ import annotations

import random

from benchmarks.fault_campaign_judge import Judge
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.memory_transport import MemoryTransport


class Crashed(BaseException):
    """The program was killed here; nothing of it runs any more."""


class JudgedLine(MemoryTransport):
    """A transport into the emulated bus, watched by a judge.

    With `crash_at_s` the program that uses it ends at that time, in the middle of what it does: a
    frame may be half sent. Every further use raises again, so that no clean-up reaches the servos,
    until `revive`.
    """

    def __init__(self, bus: EmulatedBus, judge: Judge, dice: random.Random) -> None:
        super().__init__(bus)
        self.crash_at_s: float | None = None
        self._judge = judge
        self._dice = dice
        self._dead = False

    def revive(self) -> None:
        """Somebody else uses the line now."""
        self._dead, self.crash_at_s = False, None

    def sleep(self, duration_s: float) -> None:
        """Let imagined time pass, to the crash at most."""
        self._check_alive()
        end_s = self.bus.now_s + duration_s
        if self.crash_at_s is not None and end_s >= self.crash_at_s:
            super().sleep(max(0.0, self.crash_at_s - self.bus.now_s))
            self._die()
        super().sleep(duration_s)

    def write(self, data: bytes) -> None:
        """Hand a frame to the servos, or half of one and die."""
        self._check_alive()
        self._check()
        if self.crash_at_s is not None and self.bus.now_s >= self.crash_at_s:
            self.bus.handle(data[: self._dice.randrange(len(data))], self.baud_rate)
            self._die()
        self._judge.frame_begins(data)
        super().write(data)
        self._judge.frame_ended()
        self.sent.clear()

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return what has arrived."""
        self._check_alive()
        return super().read(max_bytes, timeout_s)

    def flush_input(self) -> None:
        """Drop what has arrived."""
        self._check_alive()
        super().flush_input()

    def reopen(self) -> bool:
        """Open a lost port if it is there again."""
        self._check_alive()
        return super().reopen()

    def _check_alive(self) -> None:
        if self._dead:
            raise Crashed

    def _die(self) -> None:
        self._dead = True
        raise Crashed
