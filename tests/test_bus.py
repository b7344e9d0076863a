import contextlib
import itertools

import pytest
from emulated_arm import IDS, memory_bus

from firmware_bridge import packets, registers
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.errors import (
    BusError,
    BusTimeout,
    ChecksumMismatch,
    EchoError,
    WrongServoId,
)
from firmware_bridge.packets import StatusBit

TRY_MS = 20.6


def late(ids, delay_ms, count=1, after=0):
    return Faults(
        replies=(ReplyFault("late", frozenset(ids), delay_ms=delay_ms, count=count, after=after),)
    )


def test_ping_read_and_write_reach_the_servo():
    bus, transport = memory_bus()
    assert bus.ping(3).error == 0
    assert bus.read(3, registers.MODEL_NUMBER) == 777
    bus.write(3, registers.TORQUE_LIMIT, 321)
    assert transport.bus.servos[2].value(registers.TORQUE_LIMIT) == 321
    assert bus.read(3, registers.TORQUE_LIMIT) == 321


def test_sync_write_and_sync_read_reach_all_servos():
    bus, _ = memory_bus()
    bus.sync_write(registers.TORQUE_LIMIT, {servo_id: 100 * servo_id for servo_id in IDS})
    replies = bus.sync_read(registers.TORQUE_LIMIT.address, 2, IDS)
    values = [registers.TORQUE_LIMIT.decode(reply.data) for reply in replies.values()]
    assert list(replies) == list(IDS)
    assert values == [100, 200, 300, 400, 500, 600]


def test_reg_write_waits_for_action():
    bus, _ = memory_bus()
    bus.reg_write(1, registers.TORQUE_LIMIT, 250)
    assert bus.read(1, registers.REG_WRITE_FLAG) == 1
    assert bus.read(1, registers.TORQUE_LIMIT) == 1000
    bus.action()
    assert bus.read(1, registers.TORQUE_LIMIT) == 250
    assert bus.read(1, registers.REG_WRITE_FLAG) == 0


def test_fault_bits_arrive_with_the_data_they_came_with():
    bus, _ = memory_bus(Faults(servos={2: ServoFaults(status_bits=0x20)}))
    assert bus.read(2, registers.MODEL_NUMBER) == 777
    assert bus.status_bits[2] == StatusBit.OVERLOAD
    replies = bus.sync_read(56, 15, IDS)
    assert [replies[servo_id].error for servo_id in IDS] == [0, 0x20, 0, 0, 0, 0]


def test_missing_servo_costs_at_most_its_deadline():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    started_s = transport.clock()
    with pytest.raises(BusTimeout) as caught:
        bus.ping(3)
    assert (transport.clock() - started_s) * 1000.0 <= 2 * TRY_MS
    assert str(caught.value) == (
        "servo 3: no reply in 40.3 ms after 2 tries (memory, 1000000 baud); check power and "
        "cabling, or run 'molmoact-arm scan --port memory'"
    )
    assert caught.value.servo_ids == (3,)


def test_sync_read_returns_the_servos_behind_a_missing_one_within_one_deadline():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    for _ in range(3):
        started_s = transport.clock()
        assert sorted(bus.sync_read(56, 15, IDS)) == [1, 2, 4, 5, 6]
        assert (transport.clock() - started_s) * 1000.0 <= TRY_MS + 2.0


def test_sync_read_gets_around_a_missing_servo_that_silences_those_behind_it():
    bus, _ = memory_bus(Faults(missing=frozenset([3]), silent_after_missing=True))
    answered = [sorted(bus.sync_read(56, 15, IDS)) for _ in range(6)]
    assert answered[0] == [1, 2]
    assert answered[-1] == [1, 2, 4, 5, 6]


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


def test_corrupt_replies_are_named_as_such():
    bus, _ = memory_bus(Faults(seed=3, replies=(ReplyFault("corrupt", frozenset([5])),)))
    with pytest.raises(ChecksumMismatch, match=r"servo 5: reply damaged, checksum wrong after 2"):
        bus.read(5, registers.PRESENT_POSITION)


def test_one_corrupt_reply_costs_a_retry_and_no_more():
    bus, _ = memory_bus(Faults(seed=3, replies=(ReplyFault("corrupt", count=1),)))
    assert bus.read(5, registers.MODEL_NUMBER) == 777


class Impostor:
    """A transport on which servo 9 answers whatever is asked."""

    name, baud_rate = "impostor", 1_000_000

    def __init__(self):
        self.now_s = 0.0
        self.waiting = b""

    def clock(self):
        return self.now_s

    def write(self, data):
        self.waiting = packets.status(9, 0, b"\x01\x02")

    def read(self, max_bytes, timeout_s):
        self.now_s += 0.001
        data, self.waiting = self.waiting, b""
        return data

    def flush_input(self):
        self.waiting = b""


def test_answer_of_another_servo_is_refused():
    transport = Impostor()
    bus = Bus(transport, clock=transport.clock)
    with pytest.raises(WrongServoId, match=r"servo 2: servo 9 answered in its place after 2 tries"):
        bus.read(2, registers.PRESENT_POSITION)


def test_echoing_adapter_is_understood_when_announced():
    bus, _ = memory_bus(Faults(echo=True), echo=True)
    assert bus.ping(1).error == 0
    assert bus.read(1, registers.PRESENT_POSITION) == 2105
    bus.sync_write(registers.TORQUE_LIMIT, dict.fromkeys(IDS, 300))
    assert bus.read(6, registers.TORQUE_LIMIT) == 300
    assert sorted(bus.sync_read(56, 15, IDS)) == list(IDS)


def test_echo_announced_but_absent_is_named():
    bus, _ = memory_bus(echo=True)
    with pytest.raises(EchoError, match="does not return what is sent although --echo says so"):
        bus.ping(1)


def test_servo_that_answers_only_reads_times_out_on_a_write_that_it_carried_out():
    bus, transport = memory_bus(Faults(servos={1: ServoFaults(response_status_level=0)}))
    with pytest.raises(BusTimeout):
        bus.write(1, registers.TORQUE_LIMIT, 200)
    assert bus.read(1, registers.TORQUE_LIMIT) == 200
    assert transport.bus.servos[0].value(registers.TORQUE_LIMIT) == 200


def test_eeprom_is_not_written_when_it_holds_the_value():
    bus, transport = memory_bus()
    assert not bus.write_eeprom(1, registers.P_COEFFICIENT, 16)
    assert [frame[4] for frame in transport.sent] == [packets.Instruction.READ]


def test_eeprom_write_is_kept_through_power_loss_and_locked_again():
    bus, transport = memory_bus()
    assert bus.write_eeprom(1, registers.P_COEFFICIENT, 24)
    assert bus.read(1, registers.LOCK) == 1
    transport.bus.power_cycle()
    assert bus.read(1, registers.P_COEFFICIENT) == 24


def test_eeprom_write_of_the_id_follows_the_servo():
    bus, _ = memory_bus()
    assert bus.write_eeprom(6, registers.ID, 16)
    assert bus.ping(16).servo_id == 16


def test_write_refuses_registers_that_wear():
    bus, transport = memory_bus()
    with pytest.raises(BusError, match="p_coefficient is eeprom; write it with write_eeprom"):
        bus.write(1, registers.P_COEFFICIENT, 24)
    with pytest.raises(BusError, match="torque_enable is ram, not an EEPROM register"):
        bus.write_eeprom(1, registers.TORQUE_ENABLE, 1)
    assert transport.sent == []


def test_broadcast_torque_off_is_repeated_and_reaches_every_servo():
    bus, transport = memory_bus()
    bus.sync_write(registers.TORQUE_ENABLE, dict.fromkeys(IDS, 1))
    transport.sent.clear()
    bus.broadcast_torque_off()
    assert transport.sent == [bytes.fromhex("fffffe04032800d2")] * 3
    assert all(servo.value(registers.TORQUE_ENABLE) == 0 for servo in transport.bus.servos)


def test_byte_timing_takes_the_time_of_the_wire():
    bus, transport = memory_bus(byte_timing=True)
    started_s = transport.clock()
    bus.sync_read(56, 15, IDS)
    # 14 bytes out, 6 x 21 back: 1.4 ms at 1 Mbps, seen on a clock of 1 ms steps.
    assert 0.0013 <= transport.clock() - started_s <= 0.0031
