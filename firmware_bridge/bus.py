"""Requests to servos and their replies over a transport: one owner thread, no hidden state.

Input is flushed before every request, and a reply counts only when its id and its length fit the
request and nothing older can have that length (`late_replies.py`). What else was on the line - an
echo, another servo, broken bytes - is told apart in `exchange.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from firmware_bridge import packets, registers
from firmware_bridge.errors import BusError, BusTimeout, ChecksumMismatch, WrongServoId
from firmware_bridge.exchange import Reply, cut_reply
from firmware_bridge.line import Line
from firmware_bridge.packets import BROADCAST_ID
from firmware_bridge.registers import Access, Register
from firmware_bridge.sync_read import SyncRead
from firmware_bridge.transport import Transport

# Longest wait for a reply beyond its time on the wire: USB frames of 1 ms, the servo's return
# delay of up to 0.5 ms, and a host that is busy with a model.
DEFAULT_REPLY_TIMEOUT_S = 0.020
DEFAULT_TRIES = 2
TORQUE_OFF_REPEATS = 3


class Bus:
    """The servo bus as seen by the one thread that owns it.

    `reply_timeout_s` bounds the wait for one try beyond the wire time; a call takes at most `tries`
    times that, a sync read at most until its deadline. `echo` drops what the adapter returns of
    what was sent. A port that was lost is opened again at the next request when it is back.

    `status_bits` has the error byte of the last reply of every servo, `misses` how many calls in a
    row it left unanswered, `counters` what went wrong since the bus was opened.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        reply_timeout_s: float = DEFAULT_REPLY_TIMEOUT_S,
        tries: int = DEFAULT_TRIES,
        echo: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport = transport
        self.reply_timeout_s = reply_timeout_s
        self.tries = tries
        self.clock = clock
        self.misses: dict[int, int] = {}
        self._line = Line(transport, reply_timeout_s, echo=echo, clock=clock)
        self.status_bits = self._line.status_bits
        self.counters = self._line.counters

    @property
    def port_lost(self) -> bool:
        """Whether the port failed and is not open again yet."""
        return self._line.port_lost

    def reopen(self) -> bool:
        """Try once to open a lost port again, quickly; return whether the port is open."""
        return self._line.reopen()

    def ping(self, servo_id: int, *, tries: int | None = None) -> Reply:
        """Ask a servo whether it is there. Raises BusTimeout when it is not."""
        return self._acknowledged(servo_id, packets.ping(servo_id), tries)

    def read_bytes(
        self, servo_id: int, address: int, length: int, *, tries: int | None = None
    ) -> Reply:
        """Read `length` bytes from `address` of one servo."""

        def build() -> tuple[bytes, int]:
            nonlocal start
            start, asked = self._line.late.free_block((servo_id,), address, length)
            return packets.read(servo_id, start, asked), asked

        start = address
        return cut_reply(self._ask(servo_id, build, tries), address - start, length)

    def read(self, servo_id: int, register: Register, *, tries: int | None = None) -> int:
        """Read one register of one servo; its error byte is in `status_bits`."""
        reply = self.read_bytes(servo_id, register.address, register.size, tries=tries)
        return register.decode(reply.data)

    def write_bytes(
        self, servo_id: int, address: int, data: bytes, *, tries: int | None = None
    ) -> Reply:
        """Write bytes to one servo, which acknowledges them."""
        return self._acknowledged(servo_id, packets.write(servo_id, address, data), tries)

    def write(
        self, servo_id: int, register: Register, value: int, *, tries: int | None = None
    ) -> Reply:
        """Write one RAM register of one servo; EEPROM registers go through `write_eeprom`."""
        if register.access is not Access.RAM:
            raise BusError(
                f"{register.name} is {register.access.value}; write it with write_eeprom, or not"
            )
        return self.write_bytes(servo_id, register.address, register.encode(value), tries=tries)

    def write_eeprom(self, servo_id: int, register: Register, value: int) -> bool:
        """Store `value` if the servo has another, and lock it again; return whether it was stored.

        Comparing first spares the memory. Raises BusError when the value does not read back.
        """
        if register.access is not Access.EEPROM:
            raise BusError(f"{register.name} is {register.access.value}, not an EEPROM register")
        if register is registers.BAUD_RATE:
            raise BusError("baud_rate cannot be written from here: the reply would come at another")
        data = register.encode(value)
        if self.read(servo_id, register) == value:
            return False
        new_id = value if register is registers.ID else servo_id
        self.write(servo_id, registers.LOCK, 0)
        try:
            self.write_bytes(servo_id, register.address, data)
        except BusError:
            with contextlib.suppress(BusError):
                self.write(servo_id, registers.LOCK, 1)
            raise
        self.write(new_id, registers.LOCK, 1)
        stored = self.read(new_id, register)
        if stored != value:
            raise BusError(
                f"servo {servo_id}: {register.name} reads {stored} after writing {value}; try again"
            )
        return True

    def sync_read(
        self,
        address: int,
        length: int,
        servo_ids: Sequence[int],
        *,
        tries: int = 1,
        deadline_s: float | None = None,
    ) -> dict[int, Reply]:
        """Read the same bytes of many servos at once and return the replies that came, by id.

        Silent servos are left out. They are asked again up to `tries` times, or, when `deadline_s`
        is given (on `clock`), as long as time is left; the call never lasts longer.
        """
        pending = self.start_sync_read(address, length, servo_ids, deadline_s=deadline_s)
        return self.finish_sync_read(pending, tries=tries)

    def start_sync_read(
        self,
        address: int,
        length: int,
        servo_ids: Sequence[int],
        *,
        deadline_s: float | None = None,
    ) -> SyncRead:
        """Send the request of a sync read, so that other work fits in while servos answer."""
        timeout_s = self.reply_timeout_s
        return SyncRead(self._line, address, length, servo_ids, timeout_s, deadline_s)

    def finish_sync_read(self, pending: SyncRead, *, tries: int = 1) -> dict[int, Reply]:
        """Wait for the replies to `start_sync_read`, and ask again for lost ones."""
        replies = pending.finish(tries)
        for servo_id in pending.servo_ids:
            self._count_miss(servo_id, servo_id in replies)
        return replies

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """Write one register of many servos at once; nobody acknowledges."""
        data = {servo_id: register.encode(value) for servo_id, value in values.items()}
        self._line.send(packets.sync_write(register.address, data))

    def reg_write(self, servo_id: int, register: Register, value: int) -> Reply:
        """Leave a value with one servo until `action`."""
        frame = packets.reg_write(servo_id, register.address, register.encode(value))
        return self._acknowledged(servo_id, frame, None)

    def action(self) -> None:
        """Let all servos carry out what `reg_write` left with them; nobody acknowledges."""
        self._line.send(packets.action(BROADCAST_ID))

    def broadcast_torque_off(self, repeats: int = TORQUE_OFF_REPEATS) -> None:
        """Switch every servo's torque off, `repeats` times because nobody acknowledges."""
        register = registers.TORQUE_ENABLE
        for _ in range(repeats):
            self._line.send(packets.write(BROADCAST_ID, register.address, register.encode(0)))

    def close(self) -> None:
        """Close the transport."""
        self.transport.close()

    def silence_message(
        self, servo_ids: Sequence[int], waited_s: float, tries: int | None = None
    ) -> str:
        """Return the line that says which servos did not reply, and what to do."""
        name = self.transport.name
        who = ", ".join(str(servo_id) for servo_id in servo_ids)
        after = f" after {_tries(tries)}" if tries else ""
        return (
            f"servo{'s' if len(servo_ids) > 1 else ''} {who}: no reply in {waited_s * 1000:.1f} ms"
            f"{after} ({name}, {self.transport.baud_rate} baud); "
            f"check power and cabling, or run 'molmoact-arm scan --port {name}'"
        )

    def _acknowledged(self, servo_id: int, frame: bytes, tries: int | None) -> Reply:
        """Send a request that is answered with an acknowledgement, in any case once.

        When its acknowledgement could not be told from one that is still owed, nobody waits for it:
        what a servo is to do does not depend on whether it can confirm it.
        """
        late, sent = self._line.late, False

        def build() -> tuple[bytes, int] | None:
            nonlocal sent
            if late.may_come(servo_id, 0) and not self._settle(servo_id):
                return None
            sent = True
            return frame, 0

        try:
            return self._ask(servo_id, build, tries)
        except (BusTimeout, ChecksumMismatch, WrongServoId):
            if not sent:
                self._line.send(frame)
                late.missed(servo_id, 0)
            raise

    def _ask(
        self, servo_id: int, build: Callable[[], tuple[bytes, int] | None], tries: int | None
    ) -> Reply:
        """Send a request to one servo and return its reply, trying a bounded number of times.

        `build` makes the frame of a try and the length of its answer, or None when the servo would
        not get ready for it.
        """
        tries = self.tries if tries is None else tries
        late, started_s = self._line.late, self.clock()
        damaged, strangers = False, set()
        for attempt in range(tries):
            self.counters.retries += attempt > 0
            if not late.may_ask(servo_id) or (request := build()) is None:
                continue
            frame, length = request
            exchange = self._line.exchange(frame, {servo_id: length})
            if servo_id in exchange.replies:
                self._count_miss(servo_id, True)
                return exchange.replies[servo_id]
            damaged |= exchange.bad_checksums > 0 or servo_id in exchange.doubled
            strangers |= {other for other in exchange.strangers if not late.owes(other)}
        self._count_miss(servo_id, False)
        name = self.transport.name
        if damaged:
            raise ChecksumMismatch(
                f"servo {servo_id}: reply damaged, checksum wrong after {_tries(tries)} ({name}); "
                "check the cable, and that no two servos share an id"
            )
        if strangers:
            others = ", ".join(str(other) for other in sorted(strangers))
            raise WrongServoId(
                f"servo {servo_id}: servo {others} answered in its place after {_tries(tries)} "
                f"({name}); give every servo an id of its own"
            )
        message = self.silence_message((servo_id,), self.clock() - started_s, tries)
        raise BusTimeout(message, (servo_id,))

    def _count_miss(self, servo_id: int, answered: bool) -> None:
        self.misses[servo_id] = 0 if answered else self.misses.get(servo_id, 0) + 1

    def _settle(self, servo_id: int) -> bool:
        """Have a servo answer something that no late acknowledgement can be mistaken for."""
        length = self._line.late.free_length((servo_id,), 1)
        frame = packets.read(servo_id, registers.ID.address, length)
        return servo_id in self._line.exchange(frame, {servo_id: length}).replies


def _tries(count: int) -> str:
    return f"{count} {'tries' if count > 1 else 'try'}"
