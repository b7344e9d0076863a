import pytest
from emulated_arm import memory_bus
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import packets, registers
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.packets import (
    BROADCAST_ID,
    MAX_SERVO_ID,
    Frame,
    FrameParser,
    StatusBit,
    encode_frame,
    ping,
    read,
    reboot,
)


def still_bus(faults=None, **plant):
    return memory_bus(faults, plant=RotorPlant(6, **plant))


def test_goal_write_switches_torque_on_by_itself():
    bus, _ = still_bus()
    assert bus.read(1, registers.TORQUE_ENABLE) == 0
    for register in (registers.ACCELERATION, registers.TORQUE_LIMIT, registers.LOCK):
        bus.write(1, register, 1)
    assert bus.read(1, registers.TORQUE_ENABLE) == 0
    bus.write(1, registers.GOAL_POSITION, 2048)
    assert bus.read(1, registers.TORQUE_ENABLE) == 1


def test_homing_offset_shifts_the_position_and_wraps():
    bus, _ = still_bus(start_deg=[(628 - 2048) * 360 / 4096] * 6)
    assert bus.read(1, registers.PRESENT_POSITION) == 628
    bus.write_eeprom(1, registers.HOMING_OFFSET, 904)
    assert bus.read(1, registers.PRESENT_POSITION) == 3820


def test_torque_enable_128_makes_the_present_position_the_centre():
    bus, _ = still_bus(start_deg=[30] * 6)
    bus.write(1, registers.TORQUE_ENABLE, 128)
    assert bus.read(1, registers.PRESENT_POSITION) == 2048
    assert bus.read(1, registers.HOMING_OFFSET) == 341
    assert bus.read(1, registers.TORQUE_ENABLE) == 0


def test_locked_eeprom_write_acts_and_is_lost_with_the_power():
    bus, transport = still_bus()
    bus.write_bytes(1, registers.P_COEFFICIENT.address, b"\x20")
    assert bus.read(1, registers.P_COEFFICIENT) == 32
    transport.bus.power_cycle()
    assert bus.read(1, registers.P_COEFFICIENT) == 16


def test_power_loss_leaves_ram_defaults():
    bus, transport = still_bus()
    bus.write(6, registers.GOAL_POSITION, 2100)
    bus.write(6, registers.TORQUE_LIMIT, 77)
    bus.write(6, registers.LOCK, 0)
    transport.bus.power_cycle()
    assert bus.read(6, registers.TORQUE_ENABLE) == 0
    assert bus.read(6, registers.TORQUE_LIMIT) == 500
    assert bus.read(6, registers.LOCK) == 1


def test_read_only_registers_stay_as_they_are():
    bus, _ = still_bus()
    bus.write_bytes(1, registers.MODEL_NUMBER.address, b"\x00\x00")
    bus.write_bytes(1, registers.PRESENT_VOLTAGE.address, b"\x00")
    assert bus.read(1, registers.MODEL_NUMBER) == 777
    assert bus.read(1, registers.PRESENT_VOLTAGE) == 120


def test_wrong_supply_sets_the_voltage_bit():
    bus = EmulatedBus(RotorPlant(1), supply_v=15.0)
    assert bus.handle(ping(1))[4] == StatusBit.VOLTAGE


def test_wrong_baud_rate_is_silence():
    bus = EmulatedBus(RotorPlant(6))
    assert bus.handle(ping(1), 500_000) == b""
    assert bus.handle(ping(1), 1_000_000) != b""


def test_id_write_is_answered_under_the_old_id():
    bus = EmulatedBus(RotorPlant(1))
    answer = bus.handle(bytes.fromhex("ffff010403050aE8"))
    assert answer == bytes.fromhex("ffff010200fc")
    assert bus.handle(ping(10))[2] == 10


def test_broadcast_ping_is_answered_in_id_order_in_slots():
    bus = EmulatedBus(RotorPlant(3), ids=(5, 2, 9), byte_timing=True)
    arrived = bus.handle(ping(BROADCAST_ID))
    order = []
    for _ in range(20):
        arrived += bus.advance(0.001)
        order.append(len(arrived) // 6)
    assert list(arrived[2::6]) == [2, 5, 9]
    assert order[1] == 0
    assert order[-1] == 3


def test_reboot_takes_the_servo_away_for_a_while():
    bus = EmulatedBus(RotorPlant(2))
    assert bus.handle(reboot(1)) == b""
    bus.advance(0.5)
    assert bus.handle(ping(1)) == b""
    assert bus.handle(ping(2)) != b""
    bus.advance(0.4)
    assert bus.handle(ping(1)) != b""


def test_unfinished_frame_is_given_up_after_a_silence():
    bus = EmulatedBus(RotorPlant(1))
    assert bus.handle(b"\xff\xff\x01\xfa") == b""
    bus.advance(0.1)
    assert bus.handle(ping(1)) != b""


def test_reading_beyond_the_table_gives_zeros():
    answer = EmulatedBus(RotorPlant(1)).handle(read(1, 90, 20))
    assert answer[5:-1] == bytes(20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.builds(
                lambda servo_id, code, params: encode_frame(Frame(servo_id, code, params)),
                st.sampled_from([1, 2, 3, BROADCAST_ID]),
                st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 0x82, 0x83]),
                st.binary(max_size=20),
            ),
        ),
        max_size=12,
    )
)
def test_nothing_a_host_can_send_upsets_the_emulator(requests):
    bus = EmulatedBus(RotorPlant(2), byte_timing=True)
    for request in requests:
        bus.handle(request)
        bus.advance(0.003)
    bus.power_cycle()
    bus.advance(1.0)
    answers = FrameParser().feed(bus.advance(0.1) + bus.handle(ping(BROADCAST_ID)))
    assert all(frame.servo_id <= MAX_SERVO_ID for frame in answers)


def test_same_seed_gives_the_same_faults():
    faults = Faults(seed=5, replies=(ReplyFault("drop", probability=0.3),))

    def pattern():
        bus = EmulatedBus(RotorPlant(1), faults=faults)
        return [len(bus.handle(ping(1))) for _ in range(50)]

    assert pattern() == pattern()
    assert 5 < pattern().count(0) < 25


def answer(bus, servo_id, register):
    data = bus.handle(read(servo_id, register.address, register.size))
    return register.decode(data[5:-1])


def write(servo_id, register, value):
    return packets.write(servo_id, register.address, register.encode(value))


def test_reg_write_waits_for_action_and_shows_in_its_flag():
    bus = EmulatedBus(RotorPlant(2))
    frame = packets.reg_write(1, registers.TORQUE_LIMIT.address, b"\x4d\x00")
    assert bus.handle(frame) == packets.status(1)
    assert answer(bus, 1, registers.REG_WRITE_FLAG) == 1
    assert answer(bus, 1, registers.TORQUE_LIMIT) == 1000
    assert bus.handle(packets.action()) == b""
    assert answer(bus, 1, registers.TORQUE_LIMIT) == 77
    assert answer(bus, 1, registers.REG_WRITE_FLAG) == 0
    assert bus.handle(packets.action(1)) == packets.status(1)


def test_only_the_last_reg_write_is_kept():
    bus = EmulatedBus(RotorPlant(1))
    for value in (77, 88):
        data = registers.TORQUE_LIMIT.encode(value)
        bus.handle(packets.reg_write(1, registers.TORQUE_LIMIT.address, data))
    bus.handle(packets.action())
    assert answer(bus, 1, registers.TORQUE_LIMIT) == 88


def test_servo_of_response_level_0_answers_only_ping_and_reads():
    own = ServoFaults(response_status_level=0)
    bus = EmulatedBus(RotorPlant(1), faults=Faults(servos={1: own}))
    assert bus.handle(write(1, registers.TORQUE_LIMIT, 77)) == b""
    assert answer(bus, 1, registers.TORQUE_LIMIT) == 77
    assert bus.handle(ping(1)) == packets.status(1)
    assert bus.handle(packets.sync_read(56, 2, [1])) != b""


def test_recalibration_makes_the_present_position_what_is_asked():
    bus = EmulatedBus(RotorPlant(1, start_deg=[30]))
    assert bus.handle(bytes.fromhex("ffff01020bf1")) == packets.status(1)
    assert answer(bus, 1, registers.PRESENT_POSITION) == 2048
    frame = Frame(1, 0x0B, (1000).to_bytes(2, "little"))
    assert bus.handle(encode_frame(frame)) == packets.status(1)
    assert answer(bus, 1, registers.PRESENT_POSITION) == 1000


def test_older_firmware_does_not_know_recalibration():
    own = ServoFaults(registers={"firmware_minor_version": 9})
    bus = EmulatedBus(RotorPlant(1, start_deg=[30]), faults=Faults(servos={1: own}))
    assert bus.handle(bytes.fromhex("ffff01020bf1")) == b""
    assert answer(bus, 1, registers.HOMING_OFFSET) == 0


def test_restore_brings_back_the_factory_values_or_the_backup_but_not_the_id():
    bus = EmulatedBus(RotorPlant(2))
    bus.handle(write(2, registers.LOCK, 0))
    bus.handle(write(2, registers.ID, 7))
    assert bus.handle(encode_frame(Frame(7, 0x06))) == packets.status(7)
    assert answer(bus, 7, registers.P_COEFFICIENT) == 32
    assert answer(bus, 7, registers.MAX_POSITION_LIMIT) == 4095
    bus.handle(write(7, registers.P_COEFFICIENT, 20))
    assert bus.handle(encode_frame(Frame(7, 0x09))) == packets.status(7)
    bus.handle(write(7, registers.P_COEFFICIENT, 50))
    bus.handle(encode_frame(Frame(7, 0x06)))
    assert answer(bus, 7, registers.P_COEFFICIENT) == 20


@pytest.mark.parametrize(("choice", "kept"), [("acts", 20), ("dropped", 16)])
def test_what_a_locked_eeprom_write_does_can_be_chosen(choice, kept):
    bus = EmulatedBus(RotorPlant(1), faults=Faults(locked_eeprom_write=choice))
    assert bus.handle(write(1, registers.P_COEFFICIENT, 20)) == packets.status(1)
    assert answer(bus, 1, registers.P_COEFFICIENT) == kept
    bus.power_cycle()
    assert answer(bus, 1, registers.P_COEFFICIENT) == 16


@pytest.mark.parametrize(("choice", "limit"), [("at_power_up", 1000), ("at_once", 300)])
def test_when_the_maximum_torque_acts_can_be_chosen(choice, limit):
    bus = EmulatedBus(RotorPlant(1), faults=Faults(max_torque_limit_acts=choice))
    bus.handle(write(1, registers.LOCK, 0))
    bus.handle(write(1, registers.MAX_TORQUE_LIMIT, 300))
    assert answer(bus, 1, registers.TORQUE_LIMIT) == limit
    bus.power_cycle()
    assert answer(bus, 1, registers.TORQUE_LIMIT) == 300


@pytest.mark.parametrize(("choice", "goal"), [("present", 2162), ("zero", 0)])
def test_the_goal_after_power_up_can_be_chosen(choice, goal):
    bus = EmulatedBus(RotorPlant(1, start_deg=[10]), faults=Faults(goal_after_power_up=choice))
    bus.power_cycle()
    assert answer(bus, 1, registers.GOAL_POSITION) == goal


def test_new_settings_can_answer_for_themselves():
    bus = EmulatedBus(RotorPlant(1), faults=Faults(settings_answered_as="new"))
    assert bus.handle(write(1, registers.ID, 9), 1_000_000) == packets.status(9)
    assert bus.handle(write(9, registers.BAUD_RATE, 1), 1_000_000) == b""
    assert bus.handle(ping(9), 500_000) == packets.status(9)


@pytest.mark.parametrize(
    ("choice", "units", "delay_us"),
    [("as_set", 250, 500), ("at_least_100_us", 0, 100), ("ignored", 250, 0), ("as_set", 0, 0)],
)
def test_replies_take_their_time_on_the_wire_and_the_return_delay(choice, units, delay_us):
    own = ServoFaults(registers={"return_delay_time": units})
    faults = Faults(return_delay=choice, servos={1: own})
    bus = EmulatedBus(RotorPlant(1), faults=faults, byte_timing=True)
    assert bus.handle(read(1, 56, 2)) == b""
    # 8 bytes there and 8 bytes back at 10 us each.
    assert bus.next_due_s() == pytest.approx((160 + delay_us) * 1e-6)


def test_a_block_read_of_six_servos_takes_1400_us_on_the_wire():
    bus = EmulatedBus(RotorPlant(6), byte_timing=True)
    bus.handle(packets.sync_read(56, 15, range(1, 7)))
    bus.advance(1399e-6)
    assert len(bus.advance(1e-6)) == 21


def test_half_the_rate_takes_twice_as_long():
    own = ServoFaults(registers={"baud_rate": 1})
    bus = EmulatedBus(RotorPlant(1), faults=Faults(servos={1: own}), byte_timing=True)
    bus.handle(read(1, 56, 2), 500_000)
    assert bus.next_due_s() == pytest.approx(320e-6)


def test_missing_servo_silences_those_behind_it_if_asked():
    faults = Faults(missing=frozenset([2]), silent_after_missing=True)
    arrived = EmulatedBus(RotorPlant(3), faults=faults).handle(packets.sync_read(56, 2, [1, 2, 3]))
    assert [frame.servo_id for frame in FrameParser().feed(arrived)] == [1]
