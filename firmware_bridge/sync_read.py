"""Reads many servos with one request, and asks again only for what was lost while time is left."""

from __future__ import annotations

from collections.abc import Sequence

from firmware_bridge import packets
from firmware_bridge.exchange import Exchange, Reply, cut_reply
from firmware_bridge.line import Line

# Shortest wait that is worth a try: a USB frame each way and the servos' return delay.
SHORTEST_WAIT_S = 0.0025


class SyncRead:
    """A sync read under way: the request is sent when it is made, `finish` waits for the replies.

    Without `deadline_s` (on the line's clock) a try waits `reply_timeout_s` and its wire time. With
    it, a try waits for half of the time left at most, so that a lost last reply can be asked for
    again, and nothing is sent or waited for once the deadline is over.
    """

    def __init__(
        self,
        line: Line,
        address: int,
        length: int,
        servo_ids: Sequence[int],
        reply_timeout_s: float,
        deadline_s: float | None,
    ) -> None:
        self.servo_ids = servo_ids
        self.started_s = line.clock()
        self.deadline_s = deadline_s
        self._line = line
        self._address = address
        self._length = length
        self._reply_timeout_s = reply_timeout_s
        self._replies: dict[int, Reply] = {}
        self._exchange: Exchange | None = None
        self._skip = 0
        self._give_up_s = 0.0
        if deadline_s is None or self.started_s < deadline_s:
            self._send()

    def finish(self, tries: int) -> dict[int, Reply]:
        """Return the replies that came, by id, in the order asked; `tries` count if no deadline.

        Replies that arrived before this call are taken even when it comes after the deadline.
        """
        while (exchange := self._exchange) is not None:
            self._exchange = None
            self._line.receive(exchange, self._give_up_s)
            for servo_id, reply in exchange.replies.items():
                self._replies[servo_id] = cut_reply(reply, self._skip, self._length)
            tries -= 1
            if len(self._replies) < len(self.servo_ids) and self._may_retry(tries):
                self._line.counters.retries += 1
                self._send()
        replies = self._replies
        return {servo_id: replies[servo_id] for servo_id in self.servo_ids if servo_id in replies}

    def _send(self) -> None:
        late = self._line.late
        wanted = [servo_id for servo_id in self.servo_ids if servo_id not in self._replies]
        wanted = late.reliable_first([servo_id for servo_id in wanted if late.may_ask(servo_id)])
        start, asked = late.free_block(wanted, self._address, self._length)
        wanted = [servo_id for servo_id in wanted if not late.may_come(servo_id, asked)]
        if not wanted:
            return
        self._skip = self._address - start
        sent_s = self._line.clock()
        self._exchange = self._line.post(
            packets.sync_read(start, asked, wanted), dict.fromkeys(wanted, asked)
        )
        wire_s, wait_s = self._line.wire_s(self._exchange), self._reply_timeout_s
        self._give_up_s = sent_s + wire_s + wait_s
        if self.deadline_s is not None:
            share_s = max(wire_s + SHORTEST_WAIT_S, (self.deadline_s - sent_s) / 2)
            self._give_up_s = min(self._give_up_s, self.deadline_s, sent_s + share_s)

    def _may_retry(self, tries_left: int) -> bool:
        if self.deadline_s is None:
            return tries_left > 0
        return self.deadline_s - self._line.clock() > SHORTEST_WAIT_S
