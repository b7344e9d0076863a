"""An arm in degrees: readings, goals, and giving the port back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from emulated_arm import (
    IDS,
    LIMITS,
    START_DEG,
    memory_arm,
    torque_enables,
    writes,
)

from firmware_bridge import registers
from firmware_bridge.calibration import JOINTS, position_from_ticks, velocity_from_ticks
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import BusTimeout, GoalError, NotArmed
from firmware_bridge.exchange import Reply
from firmware_bridge.feedback import FeedbackDecoder
from firmware_bridge.packets import Instruction


def test_reading_has_every_feedback_value_in_joint_order():
    arm, _ = memory_arm()
    reading = arm.read()
    assert reading.positions[:5] == pytest.approx(START_DEG[:5], abs=0.1)
    assert reading.positions[5] == pytest.approx((40 + 10) / 110 * 100, abs=0.1)
    assert reading.voltages_v == pytest.approx([12.0] * 6)
    assert reading.temperatures_c == pytest.approx([24.0] * 6)
    assert reading.status.tolist() == [0] * 6
    for values in (reading.velocities, reading.loads, reading.currents_ma):
        assert values.tolist() == [0.0] * 6


def test_reading_is_one_transaction():
    arm, transport = memory_arm()
    arm.read()
    assert transport.sent == [bytes.fromhex("fffffe0a82380f01020304050619")]


def test_reading_shows_motion_and_load_with_their_signs():
    arm, transport = memory_arm()
    arm.arm()
    arm.write_goals(arm.read().positions + np.array([15, -15, 0, 0, 0, 0]))
    transport.sleep(0.1)
    reading = arm.read()
    assert reading.velocities[0] > 10.0
    assert reading.velocities[1] < -10.0
    assert reading.loads[0] > 0.0 > reading.loads[1]


def test_reading_names_silent_servos():
    arm, _ = memory_arm(Faults(missing=frozenset([2, 5])))
    with pytest.raises(BusTimeout, match="servos 2, 5: no reply in") as caught:
        arm.read()
    assert caught.value.servo_ids == (2, 5)


def test_silent_servo_does_not_cost_what_the_others_said():
    arm, _ = memory_arm(Faults(missing=frozenset([2])))
    with pytest.raises(BusTimeout) as caught:
        arm.read()
    partial = caught.value.partial
    assert np.flatnonzero(np.isnan(partial.positions)).tolist() == [1]
    assert partial.positions[[0, 2, 3, 4]] == pytest.approx([5, 30, 0, 10], abs=0.1)
    assert partial.temperatures_c[5] == 24.0
    assert partial.status.tolist() == [0] * 6


def test_nothing_is_made_up_when_nobody_answers():
    arm, _ = memory_arm(Faults(missing=frozenset(IDS)))
    with pytest.raises(BusTimeout) as caught:
        arm.read()
    assert caught.value.partial is None


def test_reading_asks_again_until_its_deadline_and_no_longer():
    arm, transport = memory_arm(Faults(replies=(ReplyFault("drop", frozenset([3, 6]), count=3),)))
    started_s = transport.clock()
    assert np.isfinite(arm.read(started_s + 0.015).positions).all()
    assert transport.clock() <= started_s + 0.015
    transport.bus.inject(Event("silent", ids=frozenset([4])))
    started_s = transport.clock()
    with pytest.raises(BusTimeout, match="servo 4: no reply in "):
        arm.read(started_s + 0.008)
    assert transport.clock() <= started_s + 0.008 + 1e-6


def test_fault_bits_are_in_the_reading():
    arm, _ = memory_arm(Faults(servos={6: ServoFaults(status_bits=0x04)}))
    assert arm.read().status.tolist() == [0, 0, 0, 0, 0, 4]


def test_fault_bits_of_the_status_register_count_as_those_of_the_reply():
    decoder = FeedbackDecoder(default_calibration())
    block = bytearray(15)
    block[registers.STATUS.address - registers.FEEDBACK_ADDRESS] = 0x20
    replies = {servo_id: Reply(servo_id, 0x04, bytes(block)) for servo_id in IDS}
    assert decoder.decode(replies, 0.0).status.tolist() == [0x24] * 6


def test_decoding_is_that_of_the_control_table():
    random_bytes = np.random.default_rng(5).integers(0, 256, (6, 15), dtype=np.uint8)
    blocks = dict(zip(IDS, (row.tobytes() for row in random_bytes), strict=True))
    calibration = default_calibration()
    reading = FeedbackDecoder(calibration).decode(
        {servo_id: Reply(servo_id, 0, block) for servo_id, block in blocks.items()}, 1.5
    )

    def value(servo_id, register):
        start = register.address - registers.FEEDBACK_ADDRESS
        return register.decode(blocks[servo_id][start : start + register.size])

    assert reading.t_s == 1.5
    for index, joint in enumerate(JOINTS):
        motor = calibration[joint]
        ticks = value(motor.id, registers.PRESENT_POSITION)
        speed = value(motor.id, registers.PRESENT_VELOCITY)
        assert reading.positions[index] == position_from_ticks(joint, motor, ticks)
        assert reading.velocities[index] == velocity_from_ticks(joint, motor, speed)
        assert reading.loads[index] == value(motor.id, registers.PRESENT_LOAD) / 1000
        assert reading.currents_ma[index] == value(motor.id, registers.PRESENT_CURRENT) * 6.5
        assert reading.voltages_v[index] == value(motor.id, registers.PRESENT_VOLTAGE) / 10
        assert reading.temperatures_c[index] == value(motor.id, registers.PRESENT_TEMPERATURE)
        assert reading.status[index] == value(motor.id, registers.STATUS)


def test_goals_reach_the_joints():
    arm, transport = memory_arm()
    arm.arm()
    goals = np.array([20.0, -30.0, 15.0, -10.0, 0.0, 60.0])
    arm.write_goals(goals)
    transport.sleep(2.0)
    assert arm.read().positions == pytest.approx(goals, abs=0.5)


def test_goals_are_one_frame():
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    arm.write_goals(np.zeros(6))
    assert [frame[4] for frame in transport.sent] == [Instruction.SYNC_WRITE]


def test_goals_beyond_the_range_end_at_the_range():
    arm, transport = memory_arm()
    arm.arm()
    arm.write_goals(np.array([500.0, -500.0, 0.0, 0.0, 0.0, 200.0]))
    goals = [servo.value(registers.GOAL_POSITION) for servo in transport.bus.servos]
    assert goals == [3300, 910, 2048, 2048, 2048, 3186]


@pytest.mark.parametrize(
    "goals",
    [
        [np.nan, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, np.inf],
        [0, 0, -np.inf, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [[0, 0, 0, 0, 0, 0]],
        ["a", 0, 0, 0, 0, 0],
        None,
    ],
)
def test_goals_that_are_not_six_finite_numbers_send_nothing(goals):
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    with pytest.raises(GoalError):
        arm.write_goals(goals)
    assert transport.sent == []


def test_goals_before_arming_send_nothing():
    arm, transport = memory_arm()
    with pytest.raises(NotArmed, match=r"call arm\(\) first"):
        arm.write_goals(np.zeros(6))
    assert transport.sent == []


@pytest.mark.parametrize("seed", range(5))
def test_reading_over_a_noisy_bus_is_right_or_an_error(seed):
    plant = RotorPlant(6, start_deg=[5, -20, 30, 0, 10, 40])
    faults = Faults(
        seed=seed,
        replies=(
            ReplyFault("drop", probability=0.03),
            ReplyFault("corrupt", probability=0.03),
            ReplyFault("late", probability=0.03, delay_ms=22 + 9 * seed),
        ),
    )
    arm, transport = memory_arm(faults, plant=plant)
    failures = 0
    for _ in range(150):
        # A shaft that never stands still tells an old answer from a new one.
        plant.load_nm[:] = 0.5
        transport.sleep(0.01)
        before = plant.positions_deg()[:5]
        try:
            reading = arm.read()
        except BusTimeout:
            failures += 1
            continue
        after = plant.positions_deg()[:5]
        assert (reading.positions[:5] > before - 0.2).all()
        assert (reading.positions[:5] < after + 0.2).all()
        if after.max() > 150:
            plant.load_nm[:] = 0.0
            break
    assert failures > 0


def test_close_leaves_an_armed_arm_limp():
    arm, transport = memory_arm()
    arm.arm()
    arm.close()
    assert torque_enables(transport) == [0] * 6
    assert transport.closed


def test_close_does_not_touch_an_arm_that_was_only_read():
    arm, transport = memory_arm()
    arm.read()
    arm.close()
    assert writes(transport) == []


def test_torque_limits_are_read_and_written_in_one_frame():
    arm, transport = memory_arm()
    arm.arm()
    assert arm.read_torque_limits().tolist() == list(LIMITS.torque_limits_per_mille)
    transport.sent.clear()
    arm.write_torque_limits(np.array([400, 300, 650, 450, 450, 120]))
    assert [frame[4] for frame in transport.sent] == [Instruction.SYNC_WRITE]
    assert arm.read_torque_limits().tolist() == [400, 300, 650, 450, 450, 120]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([401, 300, 650, 450, 450, 120], "torque limit of shoulder_pan is 401 per mille, this arm"),
        ([400, 300, 650, 450, 450, -1], "torque limit of gripper is -1"),
        ([400, 300, 650, 450, 450, np.nan], "must be finite"),
    ],
)
def test_torque_limits_above_those_of_the_arm_send_nothing(limits, message):
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    with pytest.raises(GoalError, match=message):
        arm.write_torque_limits(np.array(limits))
    assert transport.sent == []


def test_torque_limits_of_a_soft_arm_stay_where_the_soft_stop_left_them():
    arm, transport = memory_arm()
    arm.arm()
    arm.soft_stop(ramp_s=0.0)
    with pytest.raises(NotArmed):
        arm.write_torque_limits(np.array(LIMITS.torque_limits_per_mille))
    assert arm.read_torque_limits().tolist() == [0] * 6
    assert torque_enables(transport) == [0] * 6


@pytest.mark.parametrize(
    "change",
    [
        {"torque_limits_per_mille": (400,) * 5},
        {"torque_limits_per_mille": (400,) * 5 + (1001,)},
        {"torque_limits_per_mille": (0,) * 6},
        {"acceleration_deg_s2": 0.0},
        {"arming_max_temperature_c": float("nan")},
        {"arming_max_motion_deg": 11.0},
        {"ramp_s": -1.0},
    ],
)
def test_limits_that_make_no_sense_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(LIMITS, **change)


def test_joint_order_is_that_of_the_ids():
    assert [default_calibration()[joint].id for joint in JOINTS] == list(IDS)
