import numpy as np
import pytest
from emulated_arm import IDS, memory_bus
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import registers
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


@pytest.mark.parametrize("start_deg", [0.0, -60.0])
def test_servo_reaches_its_goal_and_stays(start_deg):
    bus, transport = still_bus(start_deg=[start_deg] * 6)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2300))
    transport.sleep(2.0)
    for servo_id in IDS[:5]:
        assert abs(bus.read(servo_id, registers.PRESENT_POSITION) - 2300) <= 3
        assert bus.read(servo_id, registers.MOVING) == 0


@pytest.mark.parametrize(("goal", "end"), [(300, 796), (4000, 3300), (-2500, 796), (60, 796)])
def test_goal_beyond_the_limits_is_kept_in_the_register_but_not_followed(goal, end):
    bus, transport = still_bus()
    bus.write(1, registers.GOAL_POSITION, goal)
    transport.sleep(3.0)
    assert bus.read(1, registers.GOAL_POSITION) == goal
    assert abs(bus.read(1, registers.PRESENT_POSITION) - end) <= 3


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


def test_torque_limit_bounds_the_duty():
    bus, transport = still_bus(stops_deg=[[-1, 1]] * 6)
    bus.write(1, registers.TORQUE_LIMIT, 300)
    bus.write(1, registers.GOAL_POSITION, 2600)
    transport.sleep(0.5)
    assert bus.read(1, registers.PRESENT_LOAD) == 300


def test_duty_follows_the_identified_law():
    # 10 degrees of error at P = 16: 16 x 0.1649 x 0.1745 rad = 46 %, and 1.6 % startup force.
    bus, transport = still_bus(stops_deg=[[-0.01, 0.01]] * 6)
    bus.write(1, registers.GOAL_POSITION, 2048 + 114)
    transport.sleep(0.2)
    assert bus.read(1, registers.PRESENT_LOAD) == pytest.approx(461 + 16, abs=8)


def test_blocked_servo_latches_its_overload_and_goes_weak():
    bus, transport = still_bus(stops_deg=[[-1, 1]] * 6)
    bus.write(1, registers.GOAL_POSITION, 2600)
    transport.sleep(1.5)
    bus.read(1, registers.PRESENT_LOAD)
    assert bus.status_bits[1] == 0
    transport.sleep(1.0)
    assert bus.read(1, registers.PRESENT_LOAD) == 200
    assert bus.status_bits[1] & StatusBit.OVERLOAD
    bus.write(1, registers.TORQUE_ENABLE, 0)
    bus.read(1, registers.PRESENT_LOAD)
    assert bus.status_bits[1] & StatusBit.OVERLOAD


@pytest.mark.parametrize(("clears_on", "left"), [("goal_write", 0), ("power_cycle", 0x20)])
def test_what_releases_the_overload_latch_can_be_chosen(clears_on, left):
    faults = Faults(
        overload_clears_on=clears_on, servos={1: ServoFaults(status_bits=StatusBit.OVERLOAD)}
    )
    bus, transport = still_bus(faults)
    bus.write(1, registers.GOAL_POSITION, 2048)
    assert bus.ping(1).error == left
    transport.bus.power_cycle()
    assert bus.ping(1).error == 0


def test_stalled_servo_heats_up_until_it_cuts_out():
    bus, transport = still_bus(stops_deg=[[-1, 1]] * 6)
    # Overload and current protection out of the way, as on a servo somebody mistreats.
    for register, value in (
        (registers.OVERLOAD_TORQUE, 100),
        (registers.PROTECTION_CURRENT, 511),
    ):
        bus.write_eeprom(1, register, value)
    bus.write(1, registers.GOAL_POSITION, 2600)
    transport.sleep(20.0)
    warm_c = bus.read(1, registers.PRESENT_TEMPERATURE)
    assert 35 <= warm_c <= 50
    transport.sleep(60.0)
    bus.ping(1)
    assert bus.status_bits[1] & StatusBit.TEMPERATURE
    # It counts as too hot until it has cooled by 2 C.
    assert bus.read(1, registers.PRESENT_TEMPERATURE) >= 68
    assert bus.read(1, registers.PRESENT_LOAD) == 0


def test_wrong_supply_sets_the_voltage_bit():
    bus = EmulatedBus(RotorPlant(1), supply_v=15.0)
    assert bus.handle(ping(1))[4] == StatusBit.VOLTAGE


def test_load_makes_the_supply_sag():
    bus, transport = still_bus(stops_deg=[[-1, 1]] * 6)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2600))
    transport.sleep(0.2)
    assert bus.read(1, registers.PRESENT_VOLTAGE) < 120


def test_profile_speed_is_kept():
    bus, transport = still_bus()
    bus.write(1, registers.GOAL_VELOCITY, 300)
    bus.write(1, registers.GOAL_POSITION, 2648)
    transport.sleep(1.0)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2348, abs=40)
    transport.sleep(1.5)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2648, abs=3)


def test_acceleration_makes_the_start_gentler():
    bus, transport = still_bus()
    bus.write(1, registers.ACCELERATION, 10)
    bus.sync_write(registers.GOAL_POSITION, {1: 2600, 2: 2600})
    transport.sleep(0.15)
    slow, fast = (bus.read(servo_id, registers.PRESENT_POSITION) for servo_id in (1, 2))
    assert slow < 2048 + 20 < fast
    transport.sleep(3.0)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2600, abs=3)


@pytest.mark.parametrize("stale", [False, True])
def test_torque_on_holds_or_runs_to_the_stale_goal_as_chosen(stale):
    plant = RotorPlant(6)
    servos = {1: ServoFaults(torque_on_runs_to_stale_goal=stale)}
    bus, transport = memory_bus(Faults(servos=servos), plant=plant)
    bus.write(1, registers.GOAL_POSITION, 2200)
    transport.sleep(1.0)
    bus.write(1, registers.TORQUE_ENABLE, 0)
    plant.load_nm[0] = -0.5
    transport.sleep(0.5)
    plant.load_nm[0] = 0.0
    transport.sleep(0.5)
    fallen = bus.read(1, registers.PRESENT_POSITION)
    assert fallen < 2150
    bus.write(1, registers.TORQUE_ENABLE, 1)
    transport.sleep(1.0)
    expected = 2200 if stale else fallen
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(expected, abs=3)


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


def test_rotor_coasts_to_rest_and_respects_its_stops():
    plant = RotorPlant(2, stops_deg=[[-90, 90], [-5, 5]], backlash_deg=0.0)
    for _ in range(200):
        plant.step(np.array([1.0, 1.0]), 0.001)
    assert plant.positions_deg()[1] == pytest.approx(5.0)
    assert plant.velocities_deg_s()[1] == 0.0
    for _ in range(1000):
        plant.step(np.zeros(2), 0.001)
    assert plant.velocities_deg_s()[0] == 0.0


def test_rotor_runs_at_its_no_load_speed():
    plant = RotorPlant(1, friction_nm=0.0)
    for _ in range(1000):
        plant.step(np.ones(1), 0.001)
    assert plant.velocities_deg_s()[0] == pytest.approx(270.0, rel=0.01)


def test_small_torque_does_not_overcome_friction():
    plant = RotorPlant(1)
    for _ in range(1000):
        plant.step(np.full(1, 0.01), 0.001)
    assert plant.positions_deg()[0] == 0.0
