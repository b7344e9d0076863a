"""Replies that are late, damaged, echoed or another's: none is taken for the asked one."""

import contextlib
import itertools
import random

import pytest
from emulated_arm import IDS, late, memory_bus

from firmware_bridge import packets, registers
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.errors import (
    BusTimeout,
    ChecksumMismatch,
    EchoError,
    WrongServoId,
)
from firmware_bridge.packets import StatusBit
from firmware_bridge.registers import CONTROL_TABLE, Access

TRY_MS = 20.6


def test_dropped_reply_is_asked_for_again():
    bus, _ = memory_bus(Faults(replies=(ReplyFault("drop", frozenset([2]), count=1),)))
    assert bus.read(2, registers.MODEL_NUMBER) == 777
    assert bus.counters.retries == 1


@pytest.mark.parametrize("delay_ms", [21, 25, 30, 41, 55, 75])
def test_late_reply_is_never_taken_for_the_next_one(delay_ms):
    # Voltage and temperature are both one byte of the same servo: only the order tells them apart.
    bus, transport = memory_bus(late([2], delay_ms, count=2, after=1))
    expected = {
        registers.PRESENT_VOLTAGE: 120,
        registers.PRESENT_TEMPERATURE: 24,
        registers.P_COEFFICIENT: 16,
        registers.D_COEFFICIENT: 32,
    }
    for register in itertools.islice(itertools.cycle(expected), 40):
        with contextlib.suppress(BusTimeout):
            assert bus.read(2, register) == expected[register]
        transport.sleep(0.002)
    assert bus.counters.retries >= 1


def test_late_sync_read_replies_are_not_taken_for_the_next_ones():
    bus, transport = memory_bus(late([4], 24))
    assert 4 not in bus.sync_read(registers.PRESENT_VOLTAGE.address, 1, IDS)
    transport.sleep(0.010)
    replies = bus.sync_read(registers.PRESENT_TEMPERATURE.address, 1, IDS)
    assert [reply.data for reply in replies.values()] == [bytes([24])] * 6


def test_late_acknowledgement_does_not_confirm_the_next_write():
    # The first write's answer comes while the second, which the servo never hears, waits for its.
    bus, _ = memory_bus(
        Faults(
            replies=(
                ReplyFault("late", frozenset([2]), delay_ms=30, count=1),
                ReplyFault("deaf", frozenset([2]), after=1, count=1),
            )
        )
    )
    with pytest.raises(BusTimeout):
        bus.write(2, registers.TORQUE_LIMIT, 111, tries=1)
    with contextlib.suppress(BusTimeout):
        bus.write(2, registers.TORQUE_LIMIT, 222, tries=1)
        assert bus.read(2, registers.TORQUE_LIMIT) == 222


@pytest.mark.parametrize("seed", range(12))
def test_no_request_is_ever_answered_by_another_ones_reply(seed):
    choose = random.Random(seed)
    faults = Faults(
        seed=seed,
        replies=tuple(
            ReplyFault(kind, probability=0.06, delay_ms=choose.uniform(1, 90))
            if kind == "late"
            else ReplyFault(kind, probability=0.04)
            for kind in ("late", "drop", "corrupt", "truncate", "noise", "deaf")
        ),
    )
    bus, transport = memory_bus(faults)
    still = [
        entry
        for entry in CONTROL_TABLE
        if entry.access is Access.EEPROM and entry is not registers.BAUD_RATE
    ]
    done = 0
    for _ in range(150):
        servo_id, register = choose.choice(IDS), choose.choice(still)
        servo = transport.bus.servos[servo_id - 1]
        with contextlib.suppress(BusTimeout, ChecksumMismatch):
            match choose.randrange(5):
                case 0:
                    limit = choose.randrange(1000)
                    bus.write(servo_id, registers.TORQUE_LIMIT, limit)
                    assert servo.value(registers.TORQUE_LIMIT) == limit
                case 1:
                    bus.ping(servo_id)
                case 2:
                    deadline_s = bus.clock() + 0.012
                    replies = bus.sync_read(
                        register.address, register.size, IDS, deadline_s=deadline_s
                    )
                    assert bus.clock() <= deadline_s + 1e-6
                    for reply in replies.values():
                        truth = transport.bus.servos[reply.servo_id - 1].value(register)
                        assert register.decode(reply.data) == truth
                case _:
                    assert bus.read(servo_id, register) == servo.value(register)
            done += 1
        transport.sleep(choose.choice([0.0, 0.002, 0.01]))
    assert done > 100
    assert bus.counters.retries > 0
    assert bus.counters.strays > 0
    assert bus.counters.bad_checksums > 0


def test_corrupt_replies_are_named_as_such():
    bus, _ = memory_bus(Faults(seed=3, replies=(ReplyFault("corrupt", frozenset([5])),)))
    with pytest.raises(ChecksumMismatch, match=r"servo 5: reply damaged, checksum wrong after 2"):
        bus.read(5, registers.PRESENT_POSITION)


def test_one_corrupt_reply_costs_a_retry_and_no_more():
    bus, _ = memory_bus(Faults(seed=3, replies=(ReplyFault("corrupt", count=1),)))
    assert bus.read(5, registers.MODEL_NUMBER) == 777


def test_echoing_adapter_is_understood_when_announced():
    bus, _ = memory_bus(Faults(echo=True), echo=True)
    assert bus.ping(1).error == 0
    assert bus.read(1, registers.PRESENT_POSITION) == 2105
    bus.sync_write(registers.TORQUE_LIMIT, dict.fromkeys(IDS, 300))
    assert bus.read(6, registers.TORQUE_LIMIT) == 300
    assert sorted(bus.sync_read(56, 15, IDS)) == list(IDS)


@pytest.mark.parametrize(
    "request_servos",
    [
        lambda bus: bus.ping(1),
        lambda bus: bus.ping(9),
        lambda bus: bus.read(1, registers.PRESENT_POSITION),
        lambda bus: bus.read(1, registers.PRESENT_VOLTAGE),
        lambda bus: bus.write(1, registers.TORQUE_LIMIT, 100),
        lambda bus: bus.sync_read(56, 15, IDS),
        lambda bus: bus.sync_read(56, 15, (9,)),
    ],
)
def test_echo_that_nobody_announced_is_named_and_never_a_reply(request_servos):
    bus, _ = memory_bus(Faults(echo=True))
    with pytest.raises(EchoError, match=r"every read seems to report 'encoder' .* use --echo"):
        request_servos(bus)


def test_echo_announced_but_absent_is_named():
    bus, _ = memory_bus(echo=True)
    with pytest.raises(EchoError, match="does not return what is sent although --echo says so"):
        bus.ping(1)


def test_reply_equal_to_the_request_is_not_taken_for_an_echo():
    # A servo with a voltage fault answers a ping with the ping's own bytes.
    bus, transport = memory_bus(Faults(servos={1: ServoFaults(status_bits=1)}))
    assert bus.ping(1).error == StatusBit.VOLTAGE
    assert transport.sent[0] == packets.status(1, 1)


class Adapter:
    """A transport that answers each request with prepared bytes."""

    name, baud_rate = "adapter", 1_000_000

    def __init__(self, *answers):
        self.now_s = 0.0
        self.answers = list(answers)
        self.waiting = b""

    def clock(self):
        return self.now_s

    def write(self, data):
        self.waiting = self.answers.pop(0) if self.answers else b""

    def read(self, max_bytes, timeout_s):
        data, self.waiting = self.waiting[:max_bytes], self.waiting[max_bytes:]
        self.now_s += 0.001 if data else timeout_s
        return data

    def flush_input(self):
        self.waiting = b""


def adapter_bus(*answers, **options):
    transport = Adapter(*answers)
    return Bus(transport, clock=transport.clock, **options), transport


def test_answer_of_another_servo_is_refused():
    stranger = packets.status(9, 0, b"\x01\x02")
    bus, _ = adapter_bus(stranger, stranger)
    with pytest.raises(WrongServoId, match=r"servo 2: servo 9 answered in its place after 2 tries"):
        bus.read(2, registers.PRESENT_POSITION)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x02\x03", bytes(20)])
def test_answer_of_another_length_is_refused(data):
    bus, _ = adapter_bus(packets.status(2, 0, data))
    with pytest.raises(BusTimeout):
        bus.read(2, registers.PRESENT_POSITION, tries=1)


def test_answer_with_error_bit_7_counts():
    bus, _ = adapter_bus(packets.status(2, 0x80, b"\x01\x02"))
    assert bus.read(2, registers.PRESENT_POSITION) == 0x0201
    assert bus.status_bits[2] == 0x80


def test_two_servos_with_one_id_are_not_believed():
    both = packets.status(2, 0, b"\x01\x02") + packets.status(2, 0, b"\x03\x04")
    bus, _ = adapter_bus(both)
    with pytest.raises(ChecksumMismatch, match="no two servos share an id"):
        bus.read(2, registers.PRESENT_POSITION, tries=1)


def test_damaged_and_partial_echoes_do_not_hide_the_answer():
    answer = packets.status(2, 0, b"\x01\x02")
    request_bytes = packets.read(2, 56, 2)
    bus, _ = adapter_bus(
        request_bytes[3:] + answer, b"\x00" + request_bytes[1:] + answer, echo=True
    )
    for _ in range(2):
        assert bus.read(2, registers.PRESENT_POSITION, tries=1) == 0x0201
