"""Which replies may still be on their way, so that none of them passes for a later one's.

A reply names its servo but not the request it answers; only its length tells. On one wire nothing
overtakes: once a servo has given an answer that no older request asked for, all its older answers
have come or are lost. So a request is best made for a length that nothing still outstanding has; a
read may ask for a few bytes more than are wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from firmware_bridge.packets import MAX_PARAMS
from firmware_bridge.registers import TABLE_END

# A reply that is later than this many requests to its servo does not come any more.
MAX_OUTSTANDING = 32


class LateReplies:
    """The lengths of the replies that each servo still owes."""

    def __init__(self) -> None:
        self._lengths: dict[int, deque[int]] = {}
        self._turn = 0

    def missed(self, servo_id: int, length: int) -> None:
        """Note that a reply of `length` bytes did not come in time."""
        owed = self._lengths.setdefault(servo_id, deque(maxlen=MAX_OUTSTANDING))
        owed.append(length)

    def answered(self, servo_id: int) -> None:
        """Note an answer that was told apart from all that were owed: nothing older follows."""
        self._lengths.pop(servo_id, None)

    def forget(self) -> None:
        """Nothing is owed any more: the line was cut."""
        self._lengths.clear()

    def owes(self, servo_id: int) -> bool:
        """Return whether any reply of this servo may still come."""
        return servo_id in self._lengths

    def reliable_first(self, servo_ids: list[int]) -> list[int]:
        """Return the ids with those that owe a reply last.

        Whether servos listed behind a missing one answer is not documented; so the missing ones
        stand behind the others, and each time another is the first of them.
        """
        silent = [servo_id for servo_id in servo_ids if servo_id in self._lengths]
        if not silent:
            return servo_ids
        self._turn += 1
        first = self._turn % len(silent)
        heard = [servo_id for servo_id in servo_ids if servo_id not in self._lengths]
        return heard + silent[first:] + silent[:first]

    def may_come(self, servo_id: int, length: int) -> bool:
        """Return whether a late reply of this servo may have `length` bytes."""
        return length in self._lengths.get(servo_id, ())

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
        if not self._lengths:
            return length
        taken = {owed for servo_id in servo_ids for owed in self._lengths.get(servo_id, ())}
        while length in taken and length < MAX_PARAMS:
            length += 1
        return length
