"""Joints that push against something: grippers keep a squeeze, other joints stop the arm."""

import numpy as np
import pytest
from gate_caller import ARM, MIDDLE, N_JOINTS, NAMES, PERIOD_S, only, started_gate

from edge.safety import Outcome, Rule

GRIPPER = NAMES.index("gripper")
BODY = [number for number in range(N_JOINTS) if number != GRIPPER]
SQUEEZE = ARM.stall.squeeze_percent
each_body_joint = pytest.mark.parametrize("joint", BODY, ids=[NAMES[number] for number in BODY])
both_ways = pytest.mark.parametrize("direction", [-1.0, 1.0])
NO_WORKSPACE = {"workspace": None}


class BlockedArm:
    """An arm that follows at once, except for one joint that does not get past an obstacle."""

    def __init__(self, joint, obstacle, direction, current_ma=1000.0):
        self.joint, self.obstacle, self.direction = joint, obstacle, direction
        self.current_ma = current_ma
        self.here = MIDDLE.copy()
        self.goal = MIDDLE.copy()
        self.tick = 0
        self.caller = started_gate(arm=NO_WORKSPACE)

    def ask(self, goal):
        """One tick; returns the verdict."""
        self.here = self.goal.copy()
        beyond = (self.here[self.joint] - self.obstacle) * self.direction
        pushes = self.obstacle is not None and beyond > 0.0
        if pushes:
            self.here[self.joint] = self.obstacle
        currents = np.zeros(N_JOINTS)
        currents[self.joint] = self.current_ma if pushes else 30.0
        self.tick += 1
        verdict = self.caller.check(goal, self.here, self.tick * PERIOD_S, currents_ma=currents)
        if verdict.goal is not None:
            self.goal = verdict.goal.copy()
        return verdict

    def ask_for(self, goal, seconds):
        return [self.ask(goal) for _ in range(round(seconds / PERIOD_S))]


def closing_on(obstacle=30.0, current_ma=1000.0):
    return BlockedArm(GRIPPER, obstacle, -1.0, current_ma)


CLOSED = only(GRIPPER, 2.0)


def test_closed_gripper_keeps_a_small_squeeze_on_what_it_met():
    arm = closing_on()
    verdicts = arm.ask_for(CLOSED, 3.0)
    assert arm.goal[GRIPPER] == pytest.approx(arm.obstacle - SQUEEZE, abs=1e-6)
    last = verdicts[-1]
    assert (last.outcome, last.rule, last.joint) == (Outcome.CLAMP, Rule.STALL, "gripper")
    assert last.reason == (
        "gripper: blocked with 1000 mA, limit 100 mA; holds with a small squeeze"
    )
    assert all(verdict.outcome <= Outcome.CLAMP for verdict in verdicts)


def test_gripper_opens_at_once_when_it_is_told_to():
    arm = closing_on()
    arm.ask_for(CLOSED, 3.0)
    wide = only(GRIPPER, 80.0)
    verdicts = arm.ask_for(wide, 1.5)
    assert arm.here[GRIPPER] == pytest.approx(80.0, abs=0.01)
    assert all(verdict.rule is not Rule.STALL for verdict in verdicts)


def test_gripper_follows_a_goal_within_its_squeeze():
    arm = closing_on()
    arm.ask_for(CLOSED, 3.0)
    light = only(GRIPPER, arm.obstacle - SQUEEZE / 2)
    assert arm.ask_for(light, 1.0)[-1].outcome is Outcome.PASS
    assert arm.goal[GRIPPER] == pytest.approx(light[GRIPPER])


def test_gripper_closes_on_when_what_it_held_is_gone():
    arm = closing_on()
    arm.ask_for(CLOSED, 3.0)
    arm.obstacle = 10.0
    arm.ask_for(CLOSED, 3.0)
    assert arm.goal[GRIPPER] == pytest.approx(10.0 - SQUEEZE, abs=1e-6)


def test_held_arm_keeps_its_grip():
    arm = closing_on()
    arm.ask_for(CLOSED, 3.0)
    for _ in range(10):
        verdict = arm.ask(None)
        assert verdict.outcome is Outcome.HOLD
        assert arm.goal[GRIPPER] == pytest.approx(arm.obstacle - SQUEEZE, abs=1e-6)


def test_gripper_that_moves_freely_is_left_alone():
    arm = closing_on(obstacle=-50.0)
    verdicts = arm.ask_for(CLOSED, 3.0)
    assert all(verdict.rule is not Rule.STALL for verdict in verdicts)
    assert arm.here[GRIPPER] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    ("current_offset_ma", "stalls"), [(-1.0, False), (0.0, False), (1.0, True)]
)
@pytest.mark.parametrize("joint", range(N_JOINTS), ids=NAMES)
@both_ways
def test_current_decides_at_its_limit_on_each_joint(joint, direction, current_offset_ma, stalls):
    current_ma = ARM.joints[joint].stall_current_ma + current_offset_ma
    arm = BlockedArm(joint, MIDDLE[joint], direction, current_ma)
    end = ARM.joints[joint].high if direction > 0 else ARM.joints[joint].low
    verdicts = arm.ask_for(only(joint, end), 1.2)
    assert any(verdict.rule is Rule.STALL for verdict in verdicts) is stalls


@pytest.mark.parametrize(("velocity_share", "stalls"), [(0.99, True), (1.01, False)])
@pytest.mark.parametrize("joint", range(N_JOINTS), ids=NAMES)
def test_joint_that_still_moves_is_not_blocked(joint, velocity_share, stalls):
    caller = started_gate(arm=NO_WORKSPACE)
    currents, speeds = np.zeros(N_JOINTS), np.zeros(N_JOINTS)
    currents[joint] = 2000.0
    speeds[joint] = ARM.joints[joint].stall_velocity * velocity_share
    rules = [
        caller.check(
            only(joint, ARM.joints[joint].low),
            MIDDLE,
            tick * PERIOD_S,
            currents_ma=currents,
            velocities=speeds,
        ).rule
        for tick in range(1, 36)
    ]
    assert (Rule.STALL in rules) is stalls


@each_body_joint
@both_ways
def test_blocked_joint_holds_and_stops_the_arm_when_it_goes_on_pushing(joint, direction):
    arm = BlockedArm(joint, MIDDLE[joint] + direction, direction)
    end = ARM.joints[joint].high if direction > 0 else ARM.joints[joint].low
    pushed_s = held_s = None
    for _ in range(200):
        verdict = arm.ask(only(joint, end))
        now_s = arm.tick * PERIOD_S
        error = abs(arm.goal[joint] - arm.here[joint])
        if pushed_s is None and error > ARM.joints[joint].stall_error:
            pushed_s = now_s
        if verdict.outcome is Outcome.HOLD and held_s is None:
            held_s = now_s
        if verdict.outcome is Outcome.STOP:
            break
    assert held_s - pushed_s == pytest.approx(ARM.stall.after_s, abs=3 * PERIOD_S)
    assert now_s - pushed_s == pytest.approx(ARM.stall.stop_s, abs=3 * PERIOD_S)
    assert verdict.rule is Rule.STALL
    assert verdict.reason == (
        f"{NAMES[joint]}: blocked with 1000 mA, limit "
        f"{ARM.joints[joint].stall_current_ma:.0f} mA and pushed on for 1.6 s"
    )


@each_body_joint
def test_blocked_joint_is_free_again_when_the_policy_gives_way(joint):
    arm = BlockedArm(joint, MIDDLE[joint] + 1.0, 1.0)
    push = only(joint, ARM.joints[joint].high)
    verdicts = arm.ask_for(push, 0.9)
    assert verdicts[-1].outcome is Outcome.HOLD
    back = only(joint, MIDDLE[joint] - 5.0)
    verdicts = arm.ask_for(back, 3.0)
    assert verdicts[0].outcome <= Outcome.CLAMP
    assert arm.here[joint] == pytest.approx(back[joint], abs=0.01)


def test_single_peaks_of_current_are_no_stall():
    caller = started_gate(arm=NO_WORKSPACE)
    for tick in range(1, 300):
        currents = np.full(N_JOINTS, 2000.0 if tick % 6 else 0.0)
        verdict = caller.check(MIDDLE + 60.0, MIDDLE, tick * PERIOD_S, currents_ma=currents)
        assert verdict.rule is not Rule.STALL


def test_held_weight_with_gravity_sag_is_no_stall():
    """The elbow sags by up to 6 degrees while it holds a stretched arm with 170 mA."""
    caller = started_gate(arm=NO_WORKSPACE)
    sagging = MIDDLE - only(2, 6.0, np.zeros(N_JOINTS))
    currents = only(2, 170.0, np.zeros(N_JOINTS))
    for tick in range(1, 200):
        verdict = caller.check(MIDDLE, sagging, tick * PERIOD_S, currents_ma=currents)
        assert verdict.outcome is Outcome.PASS
