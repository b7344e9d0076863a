"""Keeps account of faults: which were noticed, and how the arm came back to work after each."""

from __future__ import annotations

from dataclasses import dataclass

# So many goals in a row that the arm follows, after a fault is over, mean that it has recovered.
GOOD_TICKS = 5
# A fault that is over may be noticed a little later: by the next reading, or the next restart.
HELP_S = 1.5


@dataclass(slots=True)
class _Open:
    over_s: float
    seen: bool = False
    stopped: bool = False
    good_ticks: int = 0


@dataclass(slots=True)
class Counts:
    """What became of the faults of one kind."""

    struck: int = 0
    detected: int = 0  # something noticed: the driver, the gate, the loop, or arming
    went_on: int = 0  # the arm followed goals again, without a stop
    armed_again: int = 0  # it stopped, and followed goals once it had been armed again
    mended: int = 0  # it stopped, and needed its power switched off and on, or its settings back
    lost: int = 0  # nothing helped

    @property
    def recovered(self) -> int:
        """How many the arm recovered from, in whichever way."""
        return self.went_on + self.armed_again + self.mended


class Book:
    """The faults that are going on; `counts` has those that are over too."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._open: list[_Open] = []

    @property
    def n_open(self) -> int:
        """How many faults are not over or not recovered from."""
        return len(self._open)

    def struck(self, over_s: float) -> None:
        """Enter a fault that will be over at `over_s`."""
        self.counts.struck += 1
        self._open.append(_Open(over_s))

    def seen(self) -> None:
        """Something was noticed: it may be any of those that are open."""
        for fault in self._open:
            if not fault.seen:
                fault.seen = True
                self.counts.detected += 1

    def ticked(self, now_s: float, follows: bool) -> None:
        """Note a tick and whether the arm followed a goal in it; faults that are over end."""
        for fault in [fault for fault in self._open if now_s > fault.over_s]:
            fault.good_ticks = fault.good_ticks + 1 if follows else 0
            settled = fault.seen or now_s > fault.over_s + HELP_S
            if fault.good_ticks >= GOOD_TICKS and settled and not fault.stopped:
                self._open.remove(fault)
                self.counts.went_on += 1

    def stopped(self) -> None:
        """The arm was let down; whatever is open had its share in it."""
        for fault in self._open:
            fault.stopped, fault.good_ticks = True, 0

    def armed(self, now_s: float, mended: bool) -> None:
        """The arm has torque again: what had stopped it and is over has been recovered from."""
        for fault in [fault for fault in self._open if fault.stopped]:
            if mended or now_s > fault.over_s:
                self._open.remove(fault)
                self.counts.mended += mended
                self.counts.armed_again += not mended
            else:
                fault.stopped = False

    def gave_up(self) -> None:
        """Nothing brings the arm back."""
        self.counts.lost += len(self._open)
        self._open.clear()
