"""Which replies may still be on their way, so that none of them passes for a later one's.

A reply names its servo but not the request it answers; only its length tells. On one wire nothing
overtakes: once a servo has given an answer that no older request asked for, all its older answers
have come or are lost. So a request is made for a length that nothing still outstanding has; a read
may ask for a few bytes more than are wanted. A servo that owes many answers is asked less often,
so that it never owes too many for that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from firmware_bridge.packets import MAX_PARAMS
from firmware_bridge.registers import TABLE_END

# With so many different lengths outstanding, a block read still finds another inside the table.
MAX_OUTSTANDING = 60
# A reply that is later than this does not come any more. A host that swaps, or a hub that starts
# anew, stands still for a good part of a second.
LATEST_S = 1.0
# Behind so many a servo is asked less often, so that there is always room for another question: one
# that comes back is heard within a twentieth of a second.
FREELY_ASKED = 40
SPARING_S = LATEST_S / (MAX_OUTSTANDING - FREELY_ASKED)


class LateReplies:
    """The lengths of the replies that each servo still owes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._owed: dict[int, deque[tuple[float, int]]] = {}
        self._clock = clock
        self._turn = 0

    def missed(self, servo_id: int, length: int) -> None:
        """Note that a reply of `length` bytes did not come in time."""
        self._owed.setdefault(servo_id, deque()).append((self._clock(), length))

    def may_ask(self, servo_id: int) -> bool:
        """Return whether this servo's answer could be told from all it owes, and that of later."""
        owed = self._outstanding(servo_id)
        if len(owed) < FREELY_ASKED:
            return True
        return len(owed) < MAX_OUTSTANDING and self._clock() - owed[-1][0] >= SPARING_S

    def answered(self, servo_id: int) -> None:
        """Note an answer that was told apart from all that were owed: nothing older follows."""
        self._owed.pop(servo_id, None)

    def forget(self) -> None:
        """Nothing is owed any more: the line was cut."""
        self._owed.clear()

    def owes(self, servo_id: int) -> bool:
        """Return whether any reply of this servo may still come."""
        return bool(self._outstanding(servo_id))

    def reliable_first(self, servo_ids: list[int]) -> list[int]:
        """Return the ids with those that owe a reply last.

        Whether servos listed behind a missing one answer is not documented; so the missing ones
        stand behind the others, and each time another is the first of them.
        """
        silent = [servo_id for servo_id in servo_ids if self.owes(servo_id)]
        if not silent:
            return servo_ids
        self._turn += 1
        first = self._turn % len(silent)
        heard = [servo_id for servo_id in servo_ids if servo_id not in silent]
        return heard + silent[first:] + silent[:first]

    def may_come(self, servo_id: int, length: int) -> bool:
        """Return whether a late reply of this servo may have `length` bytes."""
        return any(owed == length for _, owed in self._outstanding(servo_id))

    def free_block(self, servo_ids: Iterable[int], address: int, length: int) -> tuple[int, int]:
        """Return start and length of a block that no late reply of these servos can answer.

        It holds the `length` bytes from `address` and stays inside the control table: what servos
        do when asked for more is not documented.
        """
        more = self.free_length(servo_ids, length) - length
        behind = min(more, max(0, TABLE_END - address - length))
        before = min(more - behind, address)
        return address - before, before + length + behind

    def free_length(self, servo_ids: Iterable[int], length: int) -> int:
        """Return the shortest length from `length` up that no late reply of these servos has."""
        if not self._owed:
            return length
        taken = {owed for servo_id in servo_ids for _, owed in self._outstanding(servo_id)}
        while length in taken and length < MAX_PARAMS:
            length += 1
        return length

    def _outstanding(self, servo_id: int) -> deque[tuple[float, int]] | tuple[()]:
        """Return when each answer was missed and its length, without those that are too old."""
        owed = self._owed.get(servo_id)
        if owed is None:
            return ()
        given_up_s = self._clock() - LATEST_S
        while owed and owed[0][0] < given_up_s:
            owed.popleft()
        if not owed:
            del self._owed[servo_id]
        return owed
