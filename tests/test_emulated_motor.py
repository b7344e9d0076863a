"""How emulated servos move: profile, PWM law, protections, modes, turns, and the default rotor."""

import numpy as np
import pytest
from emulated_arm import IDS, memory_bus, one_servo

from firmware_bridge import registers
from firmware_bridge.emulator.faults import Event, Faults, ServoFaults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.packets import StatusBit

TICKS_PER_DEG = 4096 / 360


def still_bus(faults=None, **plant):
    return memory_bus(faults, plant=RotorPlant(6, **plant))


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


def test_setpoint_travels_at_the_speed_that_the_goal_found():
    bus, transport, _ = one_servo()
    bus.write(1, registers.GOAL_VELOCITY, 200)
    bus.write(1, registers.GOAL_POSITION, 3048)
    bus.write(1, registers.GOAL_VELOCITY, 2000)
    transport.sleep(1.0)
    assert bus.read(1, registers.TARGET_POSITION) == pytest.approx(2248, abs=5)
    bus.write(1, registers.GOAL_POSITION, 3048)
    transport.sleep(0.5)
    assert bus.read(1, registers.TARGET_POSITION) == 3048


def test_blocked_joint_goes_on_pushing_until_the_setpoint_arrives():
    bus, transport, plant = one_servo()
    plant.stuck[0] = True
    bus.write(1, registers.GOAL_VELOCITY, 100)
    bus.write(1, registers.GOAL_POSITION, 2348)
    loads = []
    for _ in range(4):
        transport.sleep(1.0)
        loads.append(bus.read(1, registers.PRESENT_LOAD))
    assert loads[0] < loads[1] < loads[2]
    assert loads[3] == pytest.approx(loads[2], abs=5) or loads[3] == 200


def test_goal_that_turns_back_does_not_stop_the_setpoint_at_once():
    bus, transport, _ = one_servo()
    bus.write(1, registers.ACCELERATION, 10)
    bus.write(1, registers.GOAL_POSITION, 3500)
    transport.sleep(0.6)
    before = bus.read(1, registers.TARGET_POSITION)
    bus.write(1, registers.GOAL_POSITION, 2048)
    transport.sleep(0.2)
    assert bus.read(1, registers.TARGET_POSITION) > before + 50
    transport.sleep(4.0)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2048, abs=6)


def test_without_speed_and_acceleration_the_setpoint_is_the_goal():
    bus, transport, _ = one_servo()
    for goal in (2100, 1900, 3000):
        bus.write(1, registers.GOAL_POSITION, goal)
        transport.sleep(0.002)
        assert bus.read(1, registers.TARGET_POSITION) == goal


def test_moving_is_not_set_at_once():
    bus, transport, _ = one_servo()
    bus.write(1, registers.GOAL_POSITION, 3000)
    transport.sleep(0.004)
    assert bus.read(1, registers.PRESENT_VELOCITY) > 10
    assert bus.read(1, registers.MOVING) == 0
    transport.sleep(0.02)
    assert bus.read(1, registers.MOVING) == 1


def test_goals_a_few_ticks_away_do_not_move_a_joint_at_rest():
    bus, transport, _ = one_servo()
    for goal in (2051, 2044, 2048):
        bus.write(1, registers.GOAL_POSITION, goal)
        transport.sleep(0.2)
        assert bus.read(1, registers.PRESENT_POSITION) == 2048
    bus.write(1, registers.GOAL_POSITION, 2055)
    transport.sleep(1.0)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2055, abs=2)


def test_play_in_the_gears_must_be_taken_up_before_the_output_turns_back():
    plant = RotorPlant(1, backlash_deg=1.0)
    for _ in range(300):
        plant.step(np.array([0.2]), 0.001)
    top_deg = plant.positions_deg()[0]
    for _ in range(60):
        plant.step(np.array([-0.2]), 0.001)
    assert plant.positions_deg()[0] >= top_deg - 0.1
    for _ in range(200):
        plant.step(np.array([-0.2]), 0.001)
    assert plant.positions_deg()[0] < top_deg - 1.0


def test_gravity_pulls_a_joint_some_degrees_below_its_goal():
    bus, transport, plant = one_servo()
    plant.load_nm[0] = -0.86
    bus.write(1, registers.GOAL_POSITION, 2048)
    transport.sleep(2.0)
    sag_deg = (2048 - bus.read(1, registers.PRESENT_POSITION)) / TICKS_PER_DEG
    assert 2.0 < sag_deg < 6.0


def test_goals_that_keep_coming_do_not_put_the_overload_off():
    bus, transport, plant = one_servo()
    plant.stuck[0] = True
    seen = set()
    for _ in range(70):
        bus.write(1, registers.GOAL_POSITION, 2600)
        transport.sleep(1 / 30)
        seen.add(bus.ping(1).error)
    assert StatusBit.OVERLOAD in seen


@pytest.mark.parametrize(
    ("measures", "torque_limit", "latches"),
    [
        ("command", 450, True),
        ("output", 450, False),
        ("output", 900, True),
        ("share_of_limit", 450, True),
    ],
)
def test_what_the_overload_check_looks_at_can_be_chosen(measures, torque_limit, latches):
    bus, transport, plant = one_servo(switches={"overload_measures": measures})
    plant.stuck[0] = True
    bus.write(1, registers.TORQUE_LIMIT, torque_limit)
    bus.write(1, registers.GOAL_POSITION, 2600)
    transport.sleep(2.2)
    assert bool(bus.ping(1).error & StatusBit.OVERLOAD) is latches


def test_gripper_latches_at_an_error_that_others_bear():
    bus, transport = still_bus()
    for servo_id in (5, 6):
        transport.bus.inject(Event("block"))
        bus.write(servo_id, registers.GOAL_POSITION, 2048 + round(7 * TICKS_PER_DEG))
    transport.sleep(2.2)
    assert bus.ping(5).error == 0
    assert bus.ping(6).error == StatusBit.OVERLOAD


def test_over_current_latches_too():
    bus, transport, plant = one_servo({"overload_torque": 100})
    plant.stuck[0] = True
    bus.write(1, registers.GOAL_POSITION, 3000)
    transport.sleep(2.2)
    assert bus.ping(1).error == StatusBit.CURRENT
    assert bus.read(1, registers.PRESENT_LOAD) == 200


def test_sign_of_the_current_can_be_chosen():
    def raw(choice):
        bus, transport, plant = one_servo(switches={"current_sign": choice})
        plant.stuck[0] = True
        bus.write(1, registers.GOAL_POSITION, 1500)
        transport.sleep(0.1)
        return int.from_bytes(
            bus.read_bytes(1, registers.PRESENT_CURRENT.address, 2).data, "little"
        )

    assert raw("none") > 300
    assert raw("bit_15") == raw("none") | 0x8000


def test_steady_current_ends_at_the_temperature_that_was_measured():
    # A held arm at 20 raw units of current, 18 % duty, reached 60 C within half an hour.
    bus, transport, plant = one_servo(start_deg=[0])
    plant.load_nm[0] = -0.6
    bus.write(1, registers.GOAL_POSITION, 2048)
    transport.sleep(5.0)
    current = bus.read(1, registers.PRESENT_CURRENT)
    assert 8 < current < 30
    drive = transport.bus.servos[0].drive
    for _ in range(30):
        drive.step(2048, 0.0, 60.0)
    warm_c = 24 + 1.6 * drive.current_raw
    assert drive.temperature_c == pytest.approx(warm_c, abs=6)
