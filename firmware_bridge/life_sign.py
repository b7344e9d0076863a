"""The page of memory through which a program that drives an arm and its watchdog see each other.

The page has no name and is inherited. It is a row of 8-byte words, each written by one side only,
whole, in one aligned store, so that neither side ever waits for the other or reads half a value.
Times are nanoseconds of time.monotonic_ns, which all processes share.
"""

from __future__ import annotations

import enum
import mmap
import os
import time
from collections.abc import Sequence

N_WORDS = 16
WORD_BYTES = 8
_PID_BITS = 32
# Above the bits of the servos, and what tells "every servo confirmed" from "nothing known yet".
_KNOWN_BIT = 1 << 62


class Phase(enum.IntEnum):
    """What the program is doing with the arm."""

    IDLE = 0  # no torque has been given
    TORQUE = 1  # from the first frame of arming on
    SOFTENING = 2  # in its own soft stop
    SOFT = 3  # let down; `outcome` has the servos
    YIELDED = 4  # it woke up, and leaves the arm that was taken over to the watchdog
    DONE = 5  # the watchdog may go


class TakenOver(enum.IntEnum):
    """Why the watchdog took the arm over; from then on the program never touches the bus."""

    NO = 0
    SILENT = 1
    GONE = 2
    STOP_IGNORED = 3
    STOP_BEFORE_TORQUE = 4


class StopKind(enum.IntEnum):
    """Who wants the arm let down."""

    NOBODY = 0
    COMMAND = 1
    DEAD_MAN = 2


def _word(index: int, doc: str) -> property:
    def get(page: LifeSign) -> int:
        return page._words[index]

    def put(page: LifeSign, value: int) -> None:
        page._words[index] = value

    return property(get, put, doc=doc)


class LifeSign:
    """The page, mapped; made by the program with `create`, by the watchdog from its descriptor."""

    alive_until_ns = _word(0, "Until when the program need not show life again; its word.")
    allowed_ns = _word(1, "How much silence the program allowed itself last; its word.")
    phase = _word(2, "A `Phase`; the program's word.")
    outcome = _word(3, "What the program's soft stop reached, see `outcome_word`; its word.")
    taken_over = _word(8, "A `TakenOver`; the watchdog's word.")
    watchdog_seen_ns = _word(9, "When the watchdog last showed life; its word.")
    watchdog_outcome = _word(10, "What the watchdog's soft stop reached; its word.")
    held = _word(11, "1 while somebody holds the dead man's switch; the watchdog's word.")
    _stop = _word(12, "Kind and process that asked for a stop; the watchdog's word.")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, N_WORDS * WORD_BYTES)
        self._words = memoryview(self._map).cast("q")

    @classmethod
    def create(cls) -> LifeSign:
        """Make a page of zeros."""
        descriptor = os.memfd_create("molmoact-life-sign")
        os.ftruncate(descriptor, N_WORDS * WORD_BYTES)
        return cls(descriptor)

    def show_life(self, allowed_ns: int) -> None:
        """Say that the program lives and will say so again within `allowed_ns`."""
        self._words[1] = allowed_ns
        self._words[0] = time.monotonic_ns() + allowed_ns

    def ask_stop(self, kind: StopKind, process: int) -> None:
        """Ask the program to let the arm down; the first to ask is remembered."""
        if not self._stop:
            self._stop = kind << _PID_BITS | process

    @property
    def stop_asked(self) -> tuple[StopKind, int]:
        """Who asked for a stop, and the number of that process."""
        word = self._stop
        return StopKind(word >> _PID_BITS), word & ((1 << _PID_BITS) - 1)

    def close(self) -> None:
        """Give the page back."""
        self._words.release()
        self._map.close()
        os.close(self.descriptor)


def outcome_word(servo_ids: Sequence[int], unconfirmed_ids: Sequence[int]) -> int:
    """Pack which servos of a soft stop did not confirm torque off; never 0."""
    bits = (1 << place for place, servo in enumerate(servo_ids) if servo in unconfirmed_ids)
    return _KNOWN_BIT | sum(bits)


def unconfirmed_servos(servo_ids: Sequence[int], outcome: int) -> tuple[int, ...]:
    """Return the servos of an outcome that did not confirm: all of them when nothing is known."""
    if not outcome:
        return tuple(servo_ids)
    return tuple(servo for place, servo in enumerate(servo_ids) if outcome >> place & 1)
