"""`molmoact-arm move`: straight, slow, never pushing hard, and limp at the end."""

import numpy as np
import pytest
from emulated_arm import GOAL, memory_arm, torque_enables, writes
from hypothesis import given
from hypothesis import strategies as st
from scripted_console import ScriptedConsole

from firmware_bridge import move_command
from firmware_bridge.calibration import JOINTS, MotorCalibration, position_from_ticks
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault
from firmware_bridge.errors import BusTimeout
from firmware_bridge.motion import StraightMotion
from firmware_bridge.mover import MoveLimits, Mover, MoveStopped
from firmware_bridge.port_options import UserError

CALIBRATION = default_calibration()
LIMITS = MoveLimits(
    speed_deg_s=20.0,
    acceleration_deg_s2=60.0,
    lead_deg=8.0,
    gripper_lead_percent=4.0,
    max_temperature_c=60.0,
)


def mover_of(faults=None):
    arm, transport = memory_arm(faults)
    arm.arm()
    return Mover(arm, LIMITS, clock=transport.clock, sleep=transport.sleep), arm, transport


def goals_sent(transport):
    """Return the goals of every frame, (n, 6) degrees and percent, in joint order."""
    ticks = [(servo_id, value) for address, servo_id, value in writes(transport) if address == GOAL]
    rows = [ticks[start : start + 6] for start in range(0, len(ticks), 6)]
    return np.array(
        [
            [
                position_from_ticks(joint, CALIBRATION[joint], value)
                for joint, (_, value) in zip(JOINTS, row, strict=True)
            ]
            for row in rows
        ]
    )


@given(
    way=st.lists(st.floats(-200.0, 200.0), min_size=6, max_size=6),
    speed=st.floats(1.0, 60.0),
    acceleration=st.floats(10.0, 500.0),
)
def test_a_line_keeps_to_speed_and_acceleration_and_arrives(way, speed, acceleration):
    motion = StraightMotion(np.zeros(6), way, np.full(6, speed), np.full(6, acceleration))
    step_s = max(motion.duration_s, 1e-3) / 400.0
    times_s = np.arange(402) * step_s
    positions = np.array([motion.at(t_s) for t_s in times_s])
    assert positions[0] == pytest.approx(np.zeros(6), abs=1e-9)  # less is no way to go
    assert positions[-1] == pytest.approx(np.array(way))
    speeds = np.diff(positions, axis=0) / step_s
    assert np.abs(speeds).max() <= speed * (1 + 1e-6)
    assert np.abs(np.diff(speeds, axis=0)).max() / step_s <= acceleration * (1 + 1e-3) + 1e-6
    reached = np.linalg.norm(way)
    if reached > 1e-6:
        along = positions @ np.array(way) / reached
        assert np.linalg.norm(positions, axis=1) == pytest.approx(along, abs=1e-6)


def test_joints_go_where_they_should_and_the_others_stay():
    mover, arm, transport = mover_of()
    before = arm.read().positions
    reading = mover.go({"shoulder_pan": 40.0, "gripper": 60.0})
    assert reading.positions[0] == pytest.approx(40.0, abs=1.5)
    assert reading.positions[5] == pytest.approx(60.0, abs=2.0)
    assert reading.positions[1:5] == pytest.approx(before[1:5], abs=1.0)
    steps = np.abs(np.diff(goals_sent(transport)[1:], axis=0))
    assert steps.max() < 20.0 / 30.0 + 0.2


def test_a_second_move_begins_at_the_goals_of_the_first():
    mover, _, transport = mover_of()
    mover.go({"elbow_flex": 10.0})
    mover.go({"shoulder_pan": -10.0})
    elbow = goals_sent(transport)[-10:, 2]
    assert elbow == pytest.approx(np.full(10, 10.0), abs=0.1)


def test_a_blocked_joint_stops_the_line_before_it_pushes_hard():
    mover, arm, transport = mover_of()
    transport.bus.inject(Event("block", ids=frozenset({2})))
    stuck = arm.read().positions[1]
    with pytest.raises(MoveStopped, match=r"shoulder_lift stays 8\.\d deg behind .* it is blocked"):
        mover.go({"shoulder_lift": 60.0})
    assert np.abs(goals_sent(transport)[:, 1] - stuck).max() <= 8.1
    assert transport.bus.servos[1].drive.overloaded is False


def test_a_gripper_that_closes_on_something_stops():
    mover, arm, transport = mover_of()
    transport.bus.inject(Event("block", ids=frozenset({6})))
    stuck = arm.read().positions[5]
    with pytest.raises(MoveStopped, match=r"gripper stays 4\.\d percent behind"):
        mover.go({"gripper": 2.0})
    assert np.abs(goals_sent(transport)[:, 5] - stuck).max() <= 4.2


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("hot", at_s=0.5, ids=frozenset({3}), value=61.0), "elbow_flex is at 61 C, moving"),
        (Event("status", at_s=0.5, ids=frozenset({4}), value=32), "wrist_flex reports overload"),
    ],
)
def test_an_unwell_servo_stops_the_move(event, text):
    mover, _, transport = mover_of()
    transport.bus.inject(event)
    with pytest.raises(MoveStopped, match=text):
        mover.go({"shoulder_pan": 60.0})


def test_a_lost_reply_is_survived_and_a_lost_servo_is_not():
    mover, _, transport = mover_of()
    transport.bus.inject(ReplyFault("drop", ids=frozenset({2}), probability=0.02))
    reading = mover.go({"shoulder_pan": 20.0})
    assert reading.positions[0] == pytest.approx(20.0, abs=1.5)
    transport.bus.inject(Event("silent", ids=frozenset({5})))
    with pytest.raises(BusTimeout, match="servo 5: no reply"):
        mover.go({"shoulder_pan": 0.0})


def test_holding_keeps_the_goal_until_its_time_is_over():
    mover, _, transport = mover_of()
    mover.go({"wrist_roll": 30.0})
    before_s = transport.clock()
    mover.hold(1.0)
    assert transport.clock() - before_s == pytest.approx(1.0, abs=0.1)
    assert goals_sent(transport)[-1, 4] == pytest.approx(30.0, abs=0.1)


def run_move(stages, answers=(), hold_s=0.0, faults=None, ask=False):
    arm, transport = memory_arm(faults)
    mover = Mover(arm, LIMITS, clock=transport.clock, sleep=transport.sleep)
    console = ScriptedConsole(answers)
    try:
        move_command.move(console, arm, mover, stages, hold_s, ask=ask)
    finally:
        assert torque_enables(transport) == [0] * 6
    return console, transport


def test_the_arm_is_limp_at_the_end_and_says_how_near_it_came():
    console, _ = run_move([{"shoulder_pan": 25.0}], hold_s=0.5)
    words = console.words()
    assert words[0] == "shoulder_pan 5.0 -> 25.0"
    assert words[1].startswith("shoulder_pan at 2")
    assert words[2] == "holding for 0.5 s, then the arm goes limp: be ready to support it"
    assert words[-1] == "limp"


def test_no_moves_nothing():
    with pytest.raises(UserError, match="nothing was moved"):
        run_move([{"shoulder_pan": 25.0}], answers=["n"], ask=True)


def test_a_stopped_move_ends_limp():
    faults = Faults(events=(Event("hot", at_s=3.0, ids=frozenset({1}), value=65.0),))
    with pytest.raises(MoveStopped):
        run_move([{"shoulder_pan": 60.0}], faults=faults)


def test_rest_is_reached_by_way_of_the_middle():
    stages = move_command.targets([], "rest", CALIBRATION)
    assert stages[0] == dict.fromkeys(JOINTS[:-1], 0.0)
    console, transport = run_move(stages)
    goals = goals_sent(transport)
    middle = np.abs(goals[:, 1:3]).sum(axis=1).argmin()
    assert np.abs(goals[middle, :5]).max() < 0.3
    assert goals[-1, 1:4] == pytest.approx([-95.0, 90.0, 45.0], abs=0.2)
    assert console.lines[-1] == "limp"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["shoulder_pan=109"], r"shoulder_pan=109: its range is -108\.1\.\.108\.1 deg"),
        (["elbow_flex=-96"], r"elbow_flex=-96: its range is -94\.9\.\.94\.9 deg"),
        (["wrist_roll=151"], r"its range is -150\.0\.\.150\.0 deg"),
        (["gripper=100"], r"gripper=100: its range is 1\.0\.\.99\.0 percent"),
        (["gripper=nan"], "'gripper=nan': write a joint and a number, such as gripper=20"),
        (["gripper"], "'gripper': write a joint and a number"),
        (["elbow=5"], "'elbow=5': no joint of this arm; joints are shoulder_pan, "),
        (["gripper=5", "gripper=6"], "a joint is given twice"),
        ([], "say where to: JOINT=VALUE"),
    ],
)
def test_where_to_is_checked_before_anything_moves(words, text):
    with pytest.raises(UserError, match=text):
        move_command.targets(words, None, CALIBRATION)


def test_ends_of_the_range_are_allowed():
    low, high = move_command.allowed_range("shoulder_lift", CALIBRATION)
    assert move_command.targets([f"shoulder_lift={low}"], None, CALIBRATION)
    assert move_command.targets([f"shoulder_lift={high}"], None, CALIBRATION)


def test_named_poses_keep_inside_a_narrow_calibration():
    narrow = {**CALIBRATION, "shoulder_lift": MotorCalibration(2, 0, 0, 1500, 2500)}
    stage = move_command.targets([], "rest", narrow)[-1]
    assert stage["shoulder_lift"] == pytest.approx(-500 * 360 / 4095 + 2.0)
    with pytest.raises(UserError, match="not both"):
        move_command.targets(["gripper=5"], "rest", narrow)
