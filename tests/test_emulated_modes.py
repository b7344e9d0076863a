"""Operating modes, turns and phase bits of emulated servos."""

import numpy as np
import pytest
from emulated_arm import one_servo

from firmware_bridge import packets, registers

TICKS_PER_DEG = 4096 / 360


def test_velocity_mode_turns_and_reports_without_the_offset():
    bus, transport, _ = one_servo({"homing_offset": 500})
    assert bus.read(1, registers.PRESENT_POSITION) == 1548
    bus.write_eeprom(1, registers.OPERATING_MODE, 1)
    assert bus.read(1, registers.PRESENT_POSITION) == 2048
    bus.write(1, registers.GOAL_VELOCITY, -800)
    bus.write(1, registers.TORQUE_ENABLE, 1)
    transport.sleep(1.0)
    assert bus.read(1, registers.PRESENT_VELOCITY) == pytest.approx(-800, rel=0.1)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(1248, abs=150)


@pytest.mark.parametrize(("velocity_mode", "still_turns"), [("sticks", True), ("leaves", False)])
def test_velocity_mode_is_left_only_without_torque(velocity_mode, still_turns):
    bus, transport, _ = one_servo({"operating_mode": 1}, {"velocity_mode": velocity_mode})
    bus.write(1, registers.GOAL_VELOCITY, 500)
    bus.write(1, registers.TORQUE_ENABLE, 1)
    bus.write_eeprom(1, registers.OPERATING_MODE, 0)
    transport.sleep(4.0)
    assert bus.read(1, registers.OPERATING_MODE) == 0
    assert (bus.read(1, registers.PRESENT_VELOCITY) > 400) is still_turns
    bus.write(1, registers.TORQUE_ENABLE, 0)
    for mode in (1, 0):
        bus.write_eeprom(1, registers.OPERATING_MODE, mode)
    bus.write(1, registers.TORQUE_ENABLE, 1)
    transport.sleep(1.0)
    assert bus.read(1, registers.PRESENT_VELOCITY) == 0


def test_pwm_mode_takes_its_duty_from_goal_time_with_the_sign_in_bit_10():
    bus, transport, _ = one_servo({"operating_mode": 2})
    bus.write_bytes(1, registers.GOAL_TIME.address, (300 | 1 << 10).to_bytes(2, "little"))
    bus.write(1, registers.TORQUE_ENABLE, 1)
    transport.sleep(0.3)
    assert bus.read(1, registers.PRESENT_LOAD) == -300
    assert bus.read(1, registers.PRESENT_VELOCITY) < -500


def test_step_mode_adds_every_goal_to_the_last():
    bus, transport, _ = one_servo({"operating_mode": 3})
    for goal in (300, 300, -100):
        bus.write(1, registers.GOAL_POSITION, goal)
        transport.sleep(1.0)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2048 + 500, abs=6)


def test_position_wraps_at_the_end_of_the_turn():
    bus, transport, plant = one_servo()
    plant.load_nm[0] = 0.5
    seen = []
    for _ in range(60):
        transport.sleep(0.1)
        seen.append(bus.read(1, registers.PRESENT_POSITION))
    assert all(0 <= ticks <= 4095 for ticks in seen)
    assert min(np.diff(seen)) < -3500


def test_multi_turn_feedback_leaves_the_turn_on_both_sides():
    bus, transport, plant = one_servo({"phase": 12 | 0x10})
    plant.load_nm[0] = 0.6
    transport.sleep(5.0)
    assert bus.read(1, registers.PRESENT_POSITION) > 4095
    plant.load_nm[0] = -0.6
    transport.sleep(10.0)
    position = bus.read_bytes(1, registers.PRESENT_POSITION.address, 2).data
    assert registers.PRESENT_POSITION.decode(position) < 0
    assert position[1] & 0x80


def test_offset_takes_a_multi_turn_reading_below_zero():
    bus, _, _ = one_servo({"phase": 12 | 0x10, "homing_offset": 2047}, start_deg=[-10])
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(-113, abs=1)


def test_limits_of_zero_let_the_shaft_turn_without_end():
    bus, transport, plant = one_servo({"max_position_limit": 0})
    bus.write(1, registers.GOAL_POSITION, 2048 + 2 * 4096 + 100)
    # The long way overloads the motor, which goes on with a fifth of its torque.
    transport.sleep(9.0)
    assert plant.positions_deg()[0] == pytest.approx(720 + 100 / TICKS_PER_DEG, abs=1.0)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2148, abs=6)


def test_reset_forgets_the_turns():
    bus, transport, plant = one_servo({"phase": 12 | 0x10}, start_deg=[0])
    plant.load_nm[0] = 0.6
    transport.sleep(8.0)
    plant.load_nm[0] = 0.0
    transport.sleep(1.0)
    before = bus.read(1, registers.PRESENT_POSITION)
    assert before > 4095
    assert transport.bus.handle(bytes.fromhex("ffff01020af2")) == packets.status(1)
    assert bus.read(1, registers.PRESENT_POSITION) == before % 4096


def test_phase_0_makes_speed_0_a_stop_and_the_unit_coarse():
    bus, transport, _ = one_servo({"phase": 0})
    bus.write(1, registers.GOAL_POSITION, 2500)
    transport.sleep(0.5)
    assert bus.read(1, registers.PRESENT_POSITION) == 2048
    bus.write(1, registers.GOAL_VELOCITY, 10)
    bus.write(1, registers.GOAL_POSITION, 2800)
    transport.sleep(1.0)
    assert bus.read(1, registers.PRESENT_POSITION) == pytest.approx(2548, abs=60)
    assert bus.read(1, registers.PRESENT_VELOCITY) == pytest.approx(10, abs=2)


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_reversed_drive_or_feedback_runs_away(bit):
    bus, transport, plant = one_servo({"phase": 12 | bit}, stops_deg=[[-90, 90]])
    bus.write(1, registers.GOAL_POSITION, 2200)
    transport.sleep(1.5)
    assert abs(plant.positions_deg()[0]) > 85


def test_torque_enable_2_is_limp_or_damps_as_chosen():
    def speed(choice):
        bus, transport, plant = one_servo(switches={"torque_enable_2": choice})
        bus.write(1, registers.TORQUE_ENABLE, 2)
        plant.load_nm[0] = 0.5
        transport.sleep(0.5)
        return bus.read(1, registers.PRESENT_VELOCITY)

    assert speed("damps") < 0.7 * speed("limp")
