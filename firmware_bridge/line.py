"""One try on the wire: a frame out, its replies in by a deadline, books kept on what came.

Below it are bytes (`transport.py`), above it requests with retries (`bus.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from firmware_bridge import packets, registers
from firmware_bridge.errors import EchoError, PortError
from firmware_bridge.exchange import Exchange
from firmware_bridge.late_replies import LateReplies
from firmware_bridge.packets import BROADCAST_ID
from firmware_bridge.transport import Transport

READ_CHUNK_BYTES = 1024
BITS_PER_BYTE = 10
# A wait shorter than this is over: no clock or timer on a host tells it from nothing.
CLOCK_GRAIN_S = 1e-6
# A read of this many bytes cannot be answered by its own echo, which has two parameters.
ECHO_PROBE_BYTES = 3


@dataclass(slots=True)
class Counters:
    """What went wrong on a bus since it was opened.

    `retries` are tries that had to be repeated, `bad_checksums` broken frames, `strays` whole ones
    that answered nothing (late, doubled, of another length), `reopened` returns of a lost port.
    """

    retries: int = 0
    bad_checksums: int = 0
    strays: int = 0
    reopened: int = 0


class Line:
    """The wire as its one owner sees it.

    `echo` says that the adapter returns what is sent. `late` has the replies still outstanding,
    `status_bits` the error byte of every servo's last reply. `port_lost` is set when the transport
    failed; the next request then tries once to open the port again.
    """

    def __init__(
        self,
        transport: Transport,
        reply_timeout_s: float,
        *,
        echo: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport = transport
        self.clock = clock
        self.late = LateReplies(clock)
        self.status_bits: dict[int, int] = {}
        self.counters = Counters()
        self.port_lost = False
        self._reply_timeout_s = reply_timeout_s
        self._echo = echo

    def exchange(self, frame: bytes, lengths: Mapping[int, int]) -> Exchange:
        """Send a request and wait for its replies, at most the reply timeout and the wire time."""
        sent_s = self.clock()
        exchange = self.post(frame, lengths)
        self.receive(exchange, sent_s + self.wire_s(exchange) + self._reply_timeout_s)
        return exchange

    def post(self, frame: bytes, lengths: Mapping[int, int]) -> Exchange:
        """Send a request whose replies `receive` will collect."""
        exchange = Exchange(frame, lengths, self._echo)
        self.send(frame)
        return exchange

    def send(self, frame: bytes) -> None:
        """Drop what came uninvited and send a frame. Raises PortError while the port is lost."""
        if not self.reopen():
            raise PortError(
                f"{self.transport.name}: port lost, and it is not back; check the USB cable"
            )
        try:
            self.transport.flush_input()
            self.transport.write(frame)
        except PortError:
            self.port_lost = True
            raise

    def receive(self, exchange: Exchange, give_up_s: float) -> None:
        """Collect replies until all are in or the clock reads `give_up_s`, and book them.

        Raises EchoError when the adapter's echo is not as announced.
        """
        self._collect(exchange, give_up_s)
        self.counters.bad_checksums += exchange.bad_checksums
        self.counters.strays += exchange.strays
        self._check_echo(exchange)

    def wire_s(self, exchange: Exchange) -> float:
        """Return how long the request and all its replies are on the wire."""
        return exchange.wire_bytes * BITS_PER_BYTE / self.transport.baud_rate

    def reopen(self) -> bool:
        """Try once to open a lost port again, quickly; return whether the port is open."""
        if self.port_lost and self.transport.reopen():
            self.port_lost = False
            self.counters.reopened += 1
            self.late.forget()
        return not self.port_lost

    def _collect(self, exchange: Exchange, give_up_s: float) -> None:
        while True:
            left_s = give_up_s - self.clock()
            try:
                # Once more after the deadline: what is there was in time.
                data = self.transport.read(READ_CHUNK_BYTES, max(0.0, left_s))
            except PortError:
                self.port_lost = True
                raise
            if exchange.take(data) or left_s < CLOCK_GRAIN_S:
                break
        if len(exchange.replies) < len(exchange.lengths):
            exchange.give_up()
        for servo_id, length in exchange.lengths.items():
            reply = exchange.replies.get(servo_id)
            if reply is None:
                self.late.missed(servo_id, length)
            else:
                self.late.answered(servo_id)
                self.status_bits[servo_id] = reply.error

    def _check_echo(self, exchange: Exchange) -> None:
        """Raise EchoError when the adapter is not as announced; from then on go by what it does."""
        name = self.transport.name
        if self._echo:
            if exchange.replies and exchange.clean and not exchange.mirrored:
                self._echo = False
                raise EchoError(
                    f"{name}: the adapter does not return what is sent although --echo says so; "
                    "leave --echo out"
                )
        elif exchange.mirrored and self._is_echo(exchange):
            self._echo = True
            raise EchoError(
                f"{name}: the adapter returns every byte sent, so that every read seems to report "
                "'encoder' and every write 'voltage'; set its jumper to USB (B), or use --echo"
            )

    def _is_echo(self, exchange: Exchange) -> bool:
        """Whether a frame equal to the request is an echo, and not by chance the true reply.

        A servo with a voltage fault answers a PING with the PING's own bytes.
        """
        servo_id = exchange.request[packets.ID_INDEX]
        if servo_id == BROADCAST_ID or servo_id not in exchange.replies:
            return True
        length = self.late.free_length((servo_id,), ECHO_PROBE_BYTES)
        probe = packets.read(servo_id, registers.ID.address, length)
        answer = self.post(probe, {servo_id: length})
        self._collect(answer, self.clock() + self.wire_s(answer) + self._reply_timeout_s)
        return answer.mirrored
