"""What LeRobot's own Feetech tests expect of a codec, as bytes, asked of ours.

The cases (ids, addresses, values, calibrations) are those of its tests/motors/test_feetech.py and
tests/utils/test_encoding_utils.py; LeRobot need not be installed.
"""

import pytest
from emulated_arm import memory_bus

from firmware_bridge import packets, registers
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.faults import Faults, ReplyFault
from firmware_bridge.errors import BusTimeout
from firmware_bridge.registers import int_from_sign_magnitude, sign_magnitude_from_int


class CannedTransport:
    """Answers exact requests with canned replies, and others not at all."""

    name, baud_rate = "canned", 1_000_000

    def __init__(self, replies):
        self.replies = {bytes.fromhex(key): bytes.fromhex(data) for key, data in replies.items()}
        self.asked = []
        self.now_s = 0.0
        self._waiting = b""

    def write(self, data):
        self.asked.append(data.hex())
        self._waiting += self.replies.get(bytes(data), b"")

    def read(self, max_bytes, timeout_s):
        data, self._waiting = self._waiting[:max_bytes], self._waiting[max_bytes:]
        self.now_s += 0.0 if data else timeout_s
        return data

    def flush_input(self):
        self._waiting = b""

    def reopen(self):
        return True

    def close(self):
        pass


def canned_bus(replies):
    transport = CannedTransport(replies)
    return Bus(transport, clock=lambda: transport.now_s), transport


@pytest.mark.parametrize(
    ("value", "length", "expected"),
    [(0x12, 1, "12"), (0x1234, 2, "3412"), (0x12345678, 4, "78563412")],
)
def test_values_go_low_byte_first(value, length, expected):
    frame = packets.write(1, 42, value.to_bytes(length, "little"))
    assert frame[6:-1].hex() == expected


@pytest.mark.parametrize(
    ("servo_id", "request_hex", "reply_hex"),
    [
        (1, "ffff010201fb", "ffff010200fc"),
        (2, "ffff020201fa", "ffff020200fb"),
        (3, "ffff030201f9", "ffff030200fa"),
    ],
)
def test_ping(servo_id, request_hex, reply_hex):
    bus, transport = canned_bus({request_hex: reply_hex})
    assert bus.ping(servo_id).error == 0
    assert transport.asked == [request_hex]


READS = [
    (0, 1, 1, 2, "ffff0104020001f7", "ffff01030002f9"),
    (10, 2, 2, 999, "ffff0204020a02eb", "ffff020400e7030f"),
    (42, 4, 3, 1337, "ffff0304022a04c8", "ffff03060039050000b8"),
]


@pytest.mark.parametrize(("address", "length", "servo_id", "value", "asks", "answers"), READS)
def test_read(address, length, servo_id, value, asks, answers):
    bus, transport = canned_bus({asks: answers})
    reply = bus.read_bytes(servo_id, address, length)
    assert int.from_bytes(reply.data, "little") == value
    assert transport.asked == [asks]


@pytest.mark.parametrize(
    ("address", "length", "servo_id", "value", "asks"),
    [
        (0, 1, 1, 2, "ffff0104030002f5"),
        (10, 2, 2, 999, "ffff0205030ae70301"),
        (42, 4, 3, 1337, "ffff0307032a390500008a"),
    ],
)
def test_write(address, length, servo_id, value, asks):
    done = packets.status(servo_id).hex()
    bus, transport = canned_bus({asks: done})
    assert bus.write_bytes(servo_id, address, value.to_bytes(length, "little")).error == 0
    assert transport.asked == [asks]


def test_an_error_bit_comes_with_the_value_and_is_no_failure():
    bus, _ = canned_bus({"ffff0104020a04ea": "ffff01060139050000b9"})
    reply = bus.read_bytes(1, 10, 4)
    assert (int.from_bytes(reply.data, "little"), reply.error) == (1337, 1)
    assert bus.status_bits[1] == 1


def test_silence_is_a_timeout():
    bus, _ = canned_bus({})
    with pytest.raises(BusTimeout, match="servo 1: no reply"):
        bus.read_bytes(1, 10, 4)
    with pytest.raises(BusTimeout):
        bus.write_bytes(1, 10, bytes(4))


SYNC = [
    (0, 1, {1: 4}, "fffffe058200010178", "fffffe06830001010472"),
    (10, 2, {1: 1337, 2: 42}, "fffffe06820a0201026a", "fffffe0a830a02013905022a00fd"),
    (
        42,
        4,
        {1: 1337, 2: 42, 3: 4016},
        "fffffe07822a0401020344",
        "fffffe13832a040139050000022a00000003b00f000010",
    ),
]


@pytest.mark.parametrize(("address", "length", "values", "asks", "_writes"), SYNC)
def test_sync_read(address, length, values, asks, _writes):
    data = {servo_id: value.to_bytes(length, "little") for servo_id, value in values.items()}
    replies = b"".join(packets.status(servo_id, 0, item) for servo_id, item in data.items())
    bus, transport = canned_bus({asks: replies.hex()})
    read = bus.sync_read(address, length, list(values))
    assert {servo_id: reply.data for servo_id, reply in read.items()} == data
    assert transport.asked == [asks]


@pytest.mark.parametrize(("address", "length", "values", "_reads", "writes"), SYNC)
def test_sync_write(address, length, values, _reads, writes):
    data = {servo_id: value.to_bytes(length, "little") for servo_id, value in values.items()}
    assert packets.sync_write(address, data).hex() == writes


def test_sync_read_is_asked_again_after_one_that_failed():
    bus, _ = memory_bus(Faults(replies=(ReplyFault("drop", frozenset([1]), count=1),)))
    goal = bus.sync_read(registers.GOAL_POSITION.address, 2, [1], tries=2)[1].data
    assert registers.GOAL_POSITION.decode(goal) == bus.read(1, registers.GOAL_POSITION)
    assert bus.counters.retries == 1


@pytest.mark.parametrize(
    ("homing", "wire"), [(-709, "c50a"), (-2006, "d60f"), (1624, "5806"), (0, "0000")]
)
def test_homing_offsets_of_a_calibration(homing, wire):
    assert registers.HOMING_OFFSET.encode(homing).hex() == wire
    assert registers.HOMING_OFFSET.decode(bytes.fromhex(wire)) == homing


@pytest.mark.parametrize(
    ("low", "high", "wire"),
    [(43, 1335, "2b003705"), (27, 3608, "1b00180e"), (145, 3999, "91009f0f")],
)
def test_ranges_of_a_calibration(low, high, wire):
    data = registers.MIN_POSITION_LIMIT.encode(low) + registers.MAX_POSITION_LIMIT.encode(high)
    assert data.hex() == wire


@pytest.mark.parametrize(
    ("value", "sign_bit", "encoded"),
    [(5, 4, 5), (0, 4, 0), (7, 3, 7), (-1, 4, 17), (-8, 4, 24), (-3, 3, 11)],
)
def test_sign_magnitude(value, sign_bit, encoded):
    assert sign_magnitude_from_int(value, sign_bit) == encoded
    assert int_from_sign_magnitude(encoded, sign_bit) == value


@pytest.mark.parametrize(("value", "sign_bit"), [(16, 4), (-9, 3)])
def test_sign_magnitude_that_does_not_fit_is_refused(value, sign_bit):
    with pytest.raises(ValueError, match="outside"):
        sign_magnitude_from_int(value, sign_bit)


def test_all_servos_answer_a_broadcast_ping():
    _, transport = memory_bus()
    transport.write(packets.ping(packets.BROADCAST_ID))
    arrived = transport.read(1000, 1.0)
    assert arrived == b"".join(packets.status(servo_id) for servo_id in range(1, 7))
