"""Requests to servos and their replies over a transport: one owner thread, no hidden state.

Input is flushed before every request and a reply counts only when id and length fit the request.
After a request that went unanswered, its reply may still be on the way and would pass for the next
one's; therefore a servo that stayed silent is first asked for something that cannot be mistaken,
and everything that comes before that answer is dropped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from firmware_bridge import packets, registers
from firmware_bridge.errors import BusError, BusTimeout, ChecksumMismatch, WrongServoId
from firmware_bridge.packets import BROADCAST_ID, EMPTY_STATUS_BYTES, FrameParser
from firmware_bridge.registers import Access, Register
from firmware_bridge.transport import Transport

# Longest wait for a reply beyond its time on the wire: USB frames of 1 ms, the servo's return
# delay of up to 0.5 ms, and a host that is busy with a model.
DEFAULT_REPLY_TIMEOUT_S = 0.020
DEFAULT_TRIES = 2
TORQUE_OFF_REPEATS = 3
READ_CHUNK_BYTES = 1024
BITS_PER_BYTE = 10
# Lengths of the reads that settle a servo that was silent: longer than any other request's.
SETTLE_BYTES = 17
SETTLE_TURNS = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """What one servo answered; `error` holds its `StatusBit`s, the data is valid all the same."""

    servo_id: int
    error: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came back for one frame: fitting replies, and what else was on the line."""

    replies: dict[int, Reply]
    damaged: bool
    strangers: set[int]


class Bus:
    """The servo bus as seen by the one thread that owns it.

    `reply_timeout_s` bounds the wait for one try beyond the wire time; a call takes at most `tries`
    times that. `echo` reads back and drops what was sent, for adapters that return it.
    `status_bits` has the error byte of the last reply of every servo, `retries` counts tries that
    had to be repeated.
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
        self.status_bits: dict[int, int] = {}
        self.retries = 0
        self._echo = echo
        self._clock = clock
        self._suspects: set[int] = set()
        self._settle_turn = 0

    def ping(self, servo_id: int, *, tries: int | None = None) -> Reply:
        """Ask a servo whether it is there. Raises BusTimeout when it is not."""
        return self._ask(servo_id, packets.ping(servo_id), 0, tries)

    def read_bytes(
        self, servo_id: int, address: int, length: int, *, tries: int | None = None
    ) -> Reply:
        """Read `length` bytes from `address` of one servo."""
        return self._ask(servo_id, packets.read(servo_id, address, length), length, tries)

    def read(self, servo_id: int, register: Register, *, tries: int | None = None) -> int:
        """Read one register of one servo; its error byte is in `status_bits`."""
        reply = self.read_bytes(servo_id, register.address, register.size, tries=tries)
        return register.decode(reply.data)

    def write_bytes(
        self, servo_id: int, address: int, data: bytes, *, tries: int | None = None
    ) -> Reply:
        """Write bytes to one servo, which acknowledges them."""
        return self._ask(servo_id, packets.write(servo_id, address, data), 0, tries)

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
        self, address: int, length: int, servo_ids: Sequence[int], *, tries: int = 1
    ) -> dict[int, Reply]:
        """Read the same bytes of many servos at once and return the replies that came, by id.

        Silent servos are left out of the result, never waited for longer than the deadline, and
        asked again up to `tries` times.
        """
        replies: dict[int, Reply] = {}
        for attempt in range(tries):
            wanted = [servo_id for servo_id in servo_ids if servo_id not in replies]
            if not wanted:
                break
            self.retries += attempt > 0
            suspects = [servo_id for servo_id in wanted if servo_id in self._suspects]
            if suspects:
                silent = set(suspects) - self._settle(suspects, packets.sync_read)
                wanted = [servo_id for servo_id in wanted if servo_id not in silent]
            if not wanted:
                continue
            frame = packets.sync_read(address, length, wanted)
            replies.update(self._exchange(frame, dict.fromkeys(wanted, length)).replies)
            self._suspects.update(servo_id for servo_id in wanted if servo_id not in replies)
        return {servo_id: replies[servo_id] for servo_id in servo_ids if servo_id in replies}

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """Write one register of many servos at once; nobody acknowledges."""
        data = {servo_id: register.encode(value) for servo_id, value in values.items()}
        self._send(packets.sync_write(register.address, data))

    def reg_write(self, servo_id: int, register: Register, value: int) -> Reply:
        """Leave a value with one servo until `action`."""
        frame = packets.reg_write(servo_id, register.address, register.encode(value))
        return self._ask(servo_id, frame, 0, None)

    def action(self) -> None:
        """Let all servos carry out what `reg_write` left with them; nobody acknowledges."""
        self._send(packets.action(BROADCAST_ID))

    def broadcast_torque_off(self, repeats: int = TORQUE_OFF_REPEATS) -> None:
        """Switch every servo's torque off, `repeats` times because nobody acknowledges."""
        register = registers.TORQUE_ENABLE
        for _ in range(repeats):
            self._send(packets.write(BROADCAST_ID, register.address, register.encode(0)))

    def close(self) -> None:
        """Close the transport."""
        self.transport.close()

    def silence_message(self, servo_ids: tuple[int, ...], waited_ms: float, tries: int) -> str:
        """Return the line that says which servos did not reply, and what to do."""
        name = self.transport.name
        who = ", ".join(str(servo_id) for servo_id in servo_ids)
        return (
            f"servo{'s' if len(servo_ids) > 1 else ''} {who}: no reply in {waited_ms:.1f} ms after "
            f"{tries} {'tries' if tries > 1 else 'try'} ({name}, {self.transport.baud_rate} baud); "
            f"check power and cabling, or run 'molmoact-arm scan --port {name}'"
        )

    def _ask(self, servo_id: int, frame: bytes, length: int, tries: int | None) -> Reply:
        """Send a request to one servo and return its reply, trying a bounded number of times."""
        tries = self.tries if tries is None else tries
        started_s = self._clock()
        damaged, strangers = False, set()
        for attempt in range(tries):
            self.retries += attempt > 0
            if servo_id in self._suspects and not self._settle([servo_id], _read_one):
                continue
            outcome = self._exchange(frame, {servo_id: length})
            if servo_id in outcome.replies:
                return outcome.replies[servo_id]
            self._suspects.add(servo_id)
            damaged |= outcome.damaged
            strangers |= outcome.strangers
        name, tried = self.transport.name, f"after {tries} {'tries' if tries > 1 else 'try'}"
        if damaged:
            raise ChecksumMismatch(
                f"servo {servo_id}: reply damaged, checksum wrong {tried} ({name}); check the "
                "cable, and that no two servos share an id"
            )
        if strangers:
            others = ", ".join(str(other) for other in sorted(strangers))
            raise WrongServoId(
                f"servo {servo_id}: servo {others} answered in its place {tried} ({name}); give "
                "every servo an id of its own"
            )
        waited_ms = (self._clock() - started_s) * 1000.0
        raise BusTimeout(self.silence_message((servo_id,), waited_ms, tries), (servo_id,))

    def _settle(self, servo_ids: Sequence[int], build: Callable[..., bytes]) -> set[int]:
        """Have suspects answer something new, behind which no older reply can come.

        The answer is known by its length, which no other request uses and the next such question
        does not repeat, and by the id it starts with. Whether servos listed behind a missing one
        answer is not documented, so each time another one is first. Returns those that answered.
        """
        self._settle_turn = (self._settle_turn + 1) % SETTLE_TURNS
        length = SETTLE_BYTES + self._settle_turn
        first = self._settle_turn % len(servo_ids)
        ordered = [*servo_ids[first:], *servo_ids[:first]]
        frame = build(registers.ID.address, length, ordered)
        replies = self._exchange(frame, dict.fromkeys(servo_ids, length)).replies
        settled = {servo_id for servo_id, reply in replies.items() if reply.data[0] == servo_id}
        self._suspects -= settled
        return settled

    def _exchange(self, frame: bytes, lengths: Mapping[int, int]) -> _Outcome:
        """Send a request and collect the replies of the ids in `lengths` until the deadline."""
        self._send(frame)
        expected_bytes = sum(length + EMPTY_STATUS_BYTES for length in lengths.values())
        wire_s = (len(frame) + expected_bytes) * BITS_PER_BYTE / self.transport.baud_rate
        deadline_s = self._clock() + wire_s + self.reply_timeout_s
        parser = FrameParser()
        echo: bytearray | None = bytearray() if self._echo else None
        replies: dict[int, Reply] = {}
        strangers: set[int] = set()
        while len(replies) < len(lengths):
            left_s = deadline_s - self._clock()
            if left_s <= 0.0:
                break
            data = self.transport.read(READ_CHUNK_BYTES, left_s)
            if echo is not None:
                echo += data
                start = echo.find(frame)
                if start < 0:
                    continue
                data, echo = bytes(echo[start + len(frame) :]), None
            for status in parser.feed(data):
                servo_id = status.servo_id
                if servo_id not in lengths:
                    # From a suspect it is no more than a late reply to an older question.
                    strangers |= {servo_id} - self._suspects
                elif len(status.params) == lengths[servo_id]:
                    replies[servo_id] = Reply(servo_id, status.code, status.params)
                    self.status_bits[servo_id] = status.code
        return _Outcome(replies, parser.bad_checksums > 0, strangers)

    def _send(self, frame: bytes) -> None:
        self.transport.flush_input()
        self.transport.write(frame)


def _read_one(address: int, length: int, servo_ids: Sequence[int]) -> bytes:
    return packets.read(servo_ids[0], address, length)
