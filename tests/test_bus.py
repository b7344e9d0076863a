import pytest
from emulated_arm import IDS, memory_bus

from firmware_bridge import packets, registers
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.errors import (
    BusError,
    BusTimeout,
    PortError,
)
from firmware_bridge.late_replies import LATEST_S
from firmware_bridge.packets import Instruction, StatusBit
from firmware_bridge.registers import CONTROL_TABLE

TRY_MS = 20.6


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


@pytest.mark.parametrize(
    "register", [registers.FIRMWARE_MAJOR_VERSION, registers.P_COEFFICIENT, CONTROL_TABLE[-1]]
)
def test_servos_are_never_asked_for_more_than_their_table(register):
    # What they do then is not documented. Reads of a silent servo vary in length.
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    for _ in range(40):
        with pytest.raises(BusTimeout):
            bus.read(3, register, tries=1)
        assert 3 not in bus.sync_read(56, 15, IDS, deadline_s=transport.clock() + 0.01)
    transport.bus.replace_faults(Faults())
    transport.sleep(LATEST_S)
    assert bus.read(3, register) == transport.bus.servos[2].value(register)
    assert len(bus.sync_read(56, 15, IDS)) == 6
    blocks = [(frame[5], frame[6]) for frame in transport.sent]
    assert len(set(blocks)) > 30
    assert max(start + length for start, length in blocks) <= registers.TABLE_END


def test_lost_reply_in_the_middle_is_asked_for_again_at_once():
    bus, transport = memory_bus(Faults(replies=(ReplyFault("drop", frozenset([4]), count=1),)))
    started_s = transport.clock()
    replies = bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.020)
    assert list(replies) == list(IDS)
    assert len(replies[4].data) == 15
    assert transport.clock() - started_s <= 0.001
    assert [frame[4] for frame in transport.sent] == [Instruction.SYNC_READ] * 2
    assert transport.sent[1][7:-1] == bytes([4])


def test_lost_reply_at_the_end_is_asked_for_again_before_the_deadline():
    bus, transport = memory_bus(Faults(replies=(ReplyFault("drop", frozenset([6]), count=1),)))
    started_s = transport.clock()
    assert list(bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.010)) == list(IDS)
    assert transport.clock() - started_s <= 0.010


@pytest.mark.parametrize("deadline_ms", [0.5, 3, 7, 10, 20, 33])
@pytest.mark.parametrize("missing", [(), (3,), (6,), (1, 2), IDS])
def test_missing_servos_cost_a_tick_at_most_its_deadline(missing, deadline_ms):
    bus, transport = memory_bus(Faults(missing=frozenset(missing)))
    for _ in range(4):
        started_s = transport.clock()
        replies = bus.sync_read(56, 15, IDS, deadline_s=started_s + deadline_ms / 1000.0)
        assert transport.clock() - started_s <= deadline_ms / 1000.0 + 1e-6
        assert sorted(replies) == sorted(set(IDS) - set(missing))


def test_late_replies_do_not_hold_a_tick_beyond_its_deadline():
    faults = Faults(replies=(ReplyFault("late", frozenset([2, 5]), delay_ms=14),))
    bus, transport = memory_bus(faults)
    for _ in range(10):
        started_s = transport.clock()
        replies = bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.010)
        assert transport.clock() - started_s <= 0.010 + 1e-6
        assert {1, 3, 4, 6} <= set(replies)
        transport.sleep(0.010)


def test_servo_that_is_late_for_long_never_answers_an_older_question():
    # 30 ticks a second with all the tries that fit in, every reply a third of a second late.
    bus, transport = memory_bus()
    transport.bus.inject(ReplyFault("late", frozenset([2]), delay_ms=330))
    for _ in range(40):
        started_s = transport.clock()
        assert 2 not in bus.sync_read(56, 15, IDS, deadline_s=started_s + 0.025)
        with pytest.raises(BusTimeout):
            bus.read_bytes(2, 40, 18)
        transport.sleep(max(0.0, started_s + 1 / 30 - transport.clock()))
    transport.bus.replace_faults(Faults())
    transport.sleep(LATEST_S)
    assert bus.read(2, registers.ID) == 2
    assert 2 in bus.sync_read(56, 15, IDS)


def test_nothing_is_sent_after_the_deadline():
    bus, transport = memory_bus()
    assert bus.sync_read(56, 15, IDS, deadline_s=transport.clock()) == {}
    assert transport.sent == []


def test_replies_that_came_while_the_caller_was_away_count():
    bus, transport = memory_bus()
    pending = bus.start_sync_read(56, 15, IDS, deadline_s=transport.clock() + 0.005)
    transport.sleep(0.050)
    assert list(bus.finish_sync_read(pending)) == list(IDS)


def test_misses_are_counted_per_servo_until_it_answers():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    for _ in range(2):
        bus.sync_read(56, 15, IDS)
    with pytest.raises(BusTimeout):
        bus.ping(3)
    assert bus.misses == {1: 0, 2: 0, 3: 3, 4: 0, 5: 0, 6: 0}
    transport.bus.replace_faults(Faults())
    bus.ping(3)
    assert bus.misses[3] == 0


def test_port_that_comes_back_is_used_again():
    bus, transport = memory_bus()
    bus.ping(1)
    transport.bus.inject(Event("unplug", duration_s=1.0))
    transport.sleep(0.01)
    for _ in range(2):
        with pytest.raises(PortError, match="port lost"):
            bus.ping(1)
    assert bus.port_lost
    transport.sleep(1.0)
    assert bus.ping(1).error == 0
    assert not bus.port_lost
    assert bus.counters.reopened == 1


def test_port_lost_while_servos_answer_is_a_port_error():
    bus, transport = memory_bus(Faults(missing=frozenset([3])))
    pending = bus.start_sync_read(56, 15, IDS)
    transport.bus.inject(Event("unplug", duration_s=0.5))
    with pytest.raises(PortError):
        bus.finish_sync_read(pending)
    assert bus.port_lost
    transport.sleep(1.0)
    assert sorted(bus.sync_read(56, 15, IDS)) == [1, 2, 4, 5, 6]


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


@pytest.mark.parametrize("silent_calls", [0, 1, 60])
def test_write_goes_out_even_if_nobody_can_confirm_it(silent_calls):
    # The servo hears, but nothing of it is heard: it must be possible to switch its torque off.
    bus, transport = memory_bus()
    bus.write(3, registers.TORQUE_ENABLE, 1)
    transport.bus.inject(ReplyFault("drop", frozenset([3])))
    for _ in range(silent_calls):
        bus.sync_read(56, 15, IDS)
        with pytest.raises(BusTimeout):
            bus.write(3, registers.GOAL_TIME, 0, tries=1)
    with pytest.raises(BusTimeout):
        bus.write(3, registers.TORQUE_ENABLE, 0)
    assert transport.bus.servos[2].value(registers.TORQUE_ENABLE) == 0


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
