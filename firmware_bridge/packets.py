"""Frames of the Feetech serial protocol, built and parsed without any input or output.

Instruction: FF FF ID LEN INST P1..Pn CHK. Status: FF FF ID LEN ERR P1..Pn CHK. LEN is n + 2 and CHK
the inverted low byte of ID + LEN + INST (or ERR) + parameters. There is no byte stuffing, so FF FF
may occur inside parameters: a parser is driven by the length, trusts only the checksum, and after a
failure moves on by one byte. (Feetech SMS/STS protocol manual.)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HEADER = b"\xff\xff"
BROADCAST_ID = 0xFE
MAX_SERVO_ID = 0xFD
MIN_LENGTH_FIELD = 2
MAX_LENGTH_FIELD = 250
MAX_PARAMS = MAX_LENGTH_FIELD - MIN_LENGTH_FIELD
# Header, id and length in front, checksum behind; LEN counts the rest.
FRAME_OVERHEAD_BYTES = 4
EMPTY_STATUS_BYTES = 6
ID_INDEX, CODE_INDEX = 2, 4


class Instruction(enum.IntEnum):
    """What a frame asks a servo to do."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    REBOOT = 0x08
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


class StatusBit(enum.IntFlag):
    """Fault bits of a status frame, the same as in the Status register (65)."""

    VOLTAGE = 0x01
    ENCODER = 0x02
    TEMPERATURE = 0x04
    CURRENT = 0x08
    OVERLOAD = 0x20


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `code` is the instruction of a request or the error byte of a reply."""

    servo_id: int
    code: int
    params: bytes = b""


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame. Raises ValueError for an id, code or size no frame can hold."""
    length = len(frame.params) + MIN_LENGTH_FIELD
    if not 0 <= frame.servo_id <= BROADCAST_ID:
        raise ValueError(f"servo id {frame.servo_id} is outside 0..{BROADCAST_ID}")
    if not 0 <= frame.code <= 0xFF:
        raise ValueError(f"instruction or error byte {frame.code} is outside 0..255")
    if length > MAX_LENGTH_FIELD:
        raise ValueError(f"{len(frame.params)} parameter bytes, a frame holds {MAX_PARAMS}")
    body = bytes((frame.servo_id, length, frame.code)) + frame.params
    return HEADER + body + bytes((checksum(body),))


def checksum(body: bytes) -> int:
    """Return the checksum of everything between header and checksum."""
    return ~sum(body) & 0xFF


def ping(servo_id: int) -> bytes:
    """Build a PING frame."""
    return encode_frame(Frame(servo_id, Instruction.PING))


def read(servo_id: int, address: int, length: int) -> bytes:
    """Build a READ frame for `length` bytes from `address`."""
    return encode_frame(Frame(servo_id, Instruction.READ, bytes((address, length))))


def write(servo_id: int, address: int, data: bytes) -> bytes:
    """Build a WRITE frame; to the broadcast id it reaches every servo and nobody replies."""
    return encode_frame(Frame(servo_id, Instruction.WRITE, bytes((address,)) + data))


def reg_write(servo_id: int, address: int, data: bytes) -> bytes:
    """Build a REG_WRITE frame: a write that waits for ACTION."""
    return encode_frame(Frame(servo_id, Instruction.REG_WRITE, bytes((address,)) + data))


def action(servo_id: int = BROADCAST_ID) -> bytes:
    """Build an ACTION frame, which carries out pending REG_WRITEs."""
    return encode_frame(Frame(servo_id, Instruction.ACTION))


def reboot(servo_id: int) -> bytes:
    """Build a REBOOT frame; the servo is away for about 0.8 s and does not reply."""
    return encode_frame(Frame(servo_id, Instruction.REBOOT))


def sync_read(address: int, length: int, servo_ids: Sequence[int]) -> bytes:
    """Build a SYNC_READ frame; each servo answers with its own status, in list order."""
    params = bytes((address, length, *servo_ids))
    return encode_frame(Frame(BROADCAST_ID, Instruction.SYNC_READ, params))


def sync_write(address: int, data_by_id: Mapping[int, bytes]) -> bytes:
    """Build a SYNC_WRITE frame. Raises ValueError when the servos' data differ in length."""
    lengths = {len(data) for data in data_by_id.values()}
    if len(lengths) != 1:
        raise ValueError(f"sync write needs one data length for all servos, got {sorted(lengths)}")
    params = bytes((address, lengths.pop()))
    params += b"".join(bytes((servo_id,)) + data for servo_id, data in data_by_id.items())
    return encode_frame(Frame(BROADCAST_ID, Instruction.SYNC_WRITE, params))


def status(servo_id: int, error: int = 0, params: bytes = b"") -> bytes:
    """Build the status frame a servo answers with."""
    return encode_frame(Frame(servo_id, error, params))


class FrameParser:
    """Finds frames in a byte stream that may be split, joined, or full of noise.

    `bad_checksums` counts candidates that failed the checksum and `skipped_bytes` the bytes that
    belonged to no frame. Who expects no more than `max_params` parameter bytes says so: a damaged
    length then does not swallow the frames behind it.
    """

    def __init__(self, max_params: int = MAX_PARAMS) -> None:
        self.bad_checksums = 0
        self.skipped_bytes = 0
        self._max_length = max_params + MIN_LENGTH_FIELD
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes held back because they may be the start of a frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes in and return the frames they complete, in order."""
        self._buffer += data
        frames = []
        while (frame := self._next_frame()) is not None:
            frames.append(frame)
        return frames

    def resync(self) -> list[Frame]:
        """Give up an unfinished frame and return the whole ones found inside what was held back."""
        frames = []
        while self._buffer:
            self._skip(1)
            frames += self.feed(b"")
        return frames

    def reset(self) -> None:
        """Forget an unfinished frame."""
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()

    def _next_frame(self) -> Frame | None:
        buffer = self._buffer
        while True:
            if len(buffer) >= 1 and buffer[0] != 0xFF:
                start = buffer.find(0xFF)
                self._skip(len(buffer) if start < 0 else start)
            if len(buffer) < FRAME_OVERHEAD_BYTES:
                return None
            servo_id, length = buffer[2], buffer[3]
            if (
                buffer[1] != 0xFF
                or servo_id > BROADCAST_ID
                or not MIN_LENGTH_FIELD <= length <= self._max_length
            ):
                self._skip(1)
                continue
            end = length + FRAME_OVERHEAD_BYTES
            if len(buffer) < end:
                return None
            if checksum(buffer[2 : end - 1]) != buffer[end - 1]:
                self.bad_checksums += 1
                self._skip(1)
                continue
            frame = Frame(servo_id, buffer[4], bytes(buffer[5 : end - 1]))
            del buffer[:end]
            return frame

    def _skip(self, count: int) -> None:
        self.skipped_bytes += count
        del self._buffer[:count]
