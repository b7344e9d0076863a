"""One request and the replies to it: what fits, what does not, and what is an echo. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firmware_bridge.packets import (
    BROADCAST_ID,
    CODE_INDEX,
    EMPTY_STATUS_BYTES,
    FRAME_OVERHEAD_BYTES,
    ID_INDEX,
    Frame,
    FrameParser,
    status,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one servo answered; `error` holds its `StatusBit`s, the data is valid all the same."""

    servo_id: int
    error: int
    data: bytes = b""


def cut_reply(reply: Reply, start: int, length: int) -> Reply:
    """Return the reply with `length` bytes from `start` only: more may have been asked for."""
    if len(reply.data) == length:
        return reply
    return Reply(reply.servo_id, reply.error, reply.data[start : start + length])


class Exchange:
    """A request on the line and what has come back for it.

    `lengths` maps each servo that is to answer to the length of its answer, in the order in which
    they answer. `echoing` says that the adapter is known to return what was sent.

    `replies` are those that fit by id and length. `mirrored` says that the request itself came
    back. `strangers` are servos that were not asked, `doubled` those that gave two fitting answers,
    of which none is kept; `strays` counts whole frames that were not used.
    """

    def __init__(self, request: bytes, lengths: Mapping[int, int], echoing: bool) -> None:
        self.request = request
        self.lengths = lengths
        self.replies: dict[int, Reply] = {}
        self.strangers: set[int] = set()
        self.doubled: set[int] = set()
        self.strays = 0
        self.mirrored = False
        self._echoing = echoing
        self._last_id = next(reversed(lengths))
        longest = max(len(request) - EMPTY_STATUS_BYTES, *lengths.values())
        self._parser = FrameParser(longest)
        self._received = bytearray()

    @property
    def wire_bytes(self) -> int:
        """Bytes on the wire for the request and all its replies."""
        replies = sum(self.lengths.values()) + EMPTY_STATUS_BYTES * len(self.lengths)
        return len(self.request) + replies

    @property
    def bad_checksums(self) -> int:
        """Frames that came broken."""
        return self._parser.bad_checksums

    @property
    def clean(self) -> bool:
        """Whether every byte that came belonged to a whole frame."""
        return self._parser.skipped_bytes == 0

    def take(self, data: bytes) -> bool:
        """Take bytes that arrived; return whether there is nothing more to wait for.

        Servos answer in order, so with the last one's reply those still missing are lost.
        """
        self._received += data
        for frame in self._parser.feed(data):
            self._sort(frame)
        return self._last_id in self.replies

    def give_up(self) -> None:
        """Look for replies behind an unfinished frame: time is over and its rest did not come.

        A reply that lost its end may have taken the beginning of the next one for it; of 256 such,
        one has a checksum that fits. Where it may have been so, neither is kept.
        """
        for frame in self._parser.resync():
            self._sort(frame)
        heads = [self._head(servo_id) for servo_id in self.lengths if servo_id not in self.replies]
        for reply in list(self.replies.values()):
            if any(self._ends_in(reply, head) for head in heads):
                del self.replies[reply.servo_id]
                self.strays += 1

    def _sort(self, frame: Frame) -> None:
        servo_id = frame.servo_id
        if self._is_request(frame) and not self.mirrored:
            self.mirrored = True
            if self._echoing or servo_id == BROADCAST_ID:
                # What came before the echo cannot answer the request.
                self.strays += len(self.replies)
                self.replies.clear()
                return
        if servo_id not in self.lengths:
            self.strays += 1
            # The broadcast id is no servo: it is the echo of an earlier frame.
            self.strangers |= {servo_id} - {BROADCAST_ID}
        elif len(frame.params) != self.lengths[servo_id] or servo_id in self.doubled:
            self.strays += 1
        elif servo_id in self.replies:
            del self.replies[servo_id]
            self.doubled.add(servo_id)
            self.strays += 2
        else:
            self.replies[servo_id] = Reply(servo_id, frame.code, frame.params)

    def _head(self, servo_id: int) -> bytes:
        """Return how a servo's answer begins."""
        return status(servo_id, 0, bytes(self.lengths[servo_id]))[:FRAME_OVERHEAD_BYTES]

    def _ends_in(self, reply: Reply, head: bytes) -> bool:
        """Whether a frame that begins with `head` may begin inside this reply, and not after it."""
        frame = status(reply.servo_id, reply.error, reply.data)
        end = self._received.find(frame) + len(frame)
        starts = range(end - len(frame) + len(head), end)
        return any(head.startswith(self._received[start : start + len(head)]) for start in starts)

    def _is_request(self, frame: Frame) -> bool:
        request = self.request
        return (
            frame.servo_id == request[ID_INDEX]
            and frame.code == request[CODE_INDEX]
            and frame.params == request[CODE_INDEX + 1 : -1]
        )
