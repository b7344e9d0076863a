"""What the gate does about a table, the arm's own body and a neighbour, by forward kinematics."""

import numpy as np
import pytest
from gate_caller import ARM, FREE, N_JOINTS, PERIOD_S, gate, started_gate, two_arm_profile

from edge.clearance import Clearances
from edge.safety import Outcome, Rule
from edge.workspace import Workspace

# Fingers 60 mm over the table, pointing down in front of the base.
OVER_TABLE = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 20.0])
# The hand hangs before the shoulder.
BEFORE_SHOULDER = np.array([0.0, -50.0, 50.0, 70.0, 0.0, 20.0])
REACHING = np.array([0.0, -10.0, 20.0, 20.0, 0.0, 20.0])
LEAD = np.array([joint.max_lead for joint in ARM.joints])
CLEARANCES = Clearances(ARM.arms, ARM.workspace, 1)


def nearest_m(positions, clearances=CLEARANCES):
    """How much further than its limit the worst part is; negative is too near."""
    return float((clearances.measure(positions[None])[0] - clearances.limits_m).min())


def drive(caller, start, target, n_ticks=120):
    """Let an arm that does as it is told follow one goal; return its goals and verdicts."""
    here, goals, verdicts = start.copy(), [], []
    for tick in range(1, n_ticks + 1):
        verdicts.append(caller.check(target, here, tick * PERIOD_S))
        here = verdicts[-1].goal.copy()
        goals.append(here)
    return np.array(goals), verdicts


def test_poses_used_here_are_free():
    assert nearest_m(OVER_TABLE) > 0.02
    assert nearest_m(BEFORE_SHOULDER) > 0.0


def test_goal_through_the_table_stops_at_it_and_names_the_part():
    through = OVER_TABLE + only_lift(55.0)
    assert nearest_m(through) < -0.025
    goals, verdicts = drive(started_gate(OVER_TABLE), OVER_TABLE, through)
    for goal in goals:
        assert nearest_m(goal) >= -1e-9
    assert nearest_m(goals[-1]) < 0.005
    last = verdicts[-1]
    assert (last.outcome, last.rule, last.joint) == (Outcome.CLAMP, Rule.TABLE, "shoulder_lift")
    assert "brings the finger to" in last.reason or "brings the jaw to" in last.reason
    assert last.reason.endswith("mm over the table, limit -10 mm")


def test_goal_just_over_the_table_is_reached_and_just_under_it_is_not():
    lift_deg = np.linspace(0.0, 55.0, 2751)
    free = [nearest_m(OVER_TABLE + only_lift(lift)) >= 0.0 for lift in lift_deg]
    first_inside = free.index(False)
    just_over = OVER_TABLE + only_lift(lift_deg[first_inside - 1])
    just_under = OVER_TABLE + only_lift(lift_deg[first_inside])
    goals, verdicts = drive(started_gate(OVER_TABLE), OVER_TABLE, just_over)
    np.testing.assert_allclose(goals[-1], just_over, atol=1e-6)
    assert verdicts[-1].outcome is Outcome.PASS
    goals, verdicts = drive(started_gate(OVER_TABLE), OVER_TABLE, just_under)
    assert verdicts[-1].rule is Rule.TABLE
    assert nearest_m(goals[-1]) >= -1e-9


def only_lift(degrees):
    return np.array([0.0, degrees, 0.0, 0.0, 0.0, 0.0])


def test_joints_that_do_not_go_nearer_go_on():
    down_and_aside = OVER_TABLE + np.array([30.0, 55.0, 0.0, 0.0, 0.0, 10.0])
    goals, _ = drive(started_gate(OVER_TABLE), OVER_TABLE, down_and_aside)
    np.testing.assert_allclose(goals[-1][[0, 5]], down_and_aside[[0, 5]], atol=1e-6)


def test_hand_does_not_enter_the_body():
    into_shoulder = BEFORE_SHOULDER + np.array([0.0, -8.0, 20.0, 20.0, 0.0, 0.0])
    assert nearest_m(into_shoulder) < -0.015
    goals, verdicts = drive(started_gate(BEFORE_SHOULDER), BEFORE_SHOULDER, into_shoulder)
    for goal in goals:
        assert nearest_m(goal) >= -1e-9
    collisions = [verdict for verdict in verdicts if verdict.rule is Rule.COLLISION]
    assert collisions
    assert " to the " in collisions[0].reason
    assert collisions[0].reason.endswith("mm")


def test_opening_jaw_does_not_hit_the_body():
    """The jaw opened into the arm's own body at a legal speed is a failure known from the field."""
    rng = np.random.default_rng(0)
    low = np.array([joint.low for joint in ARM.joints])
    high = np.array([joint.high for joint in ARM.joints])
    tried = 0
    for _ in range(4000):
        closed = rng.uniform(low, high)
        closed[5], wide = 5.0, closed.copy()
        wide[5] = 95.0
        if nearest_m(closed) < 0.005 or nearest_m(wide) > -0.005:
            continue
        tried += 1
        goals, _ = drive(started_gate(closed), closed, wide, 60)
        assert min(nearest_m(goal) for goal in goals) >= -1e-9
    assert tried >= 5


@pytest.mark.parametrize("seed", range(6))
def test_pose_that_is_too_near_may_move_outwards_only(seed):
    rng = np.random.default_rng(seed)
    inside = OVER_TABLE + only_lift(48.0)
    assert nearest_m(inside) < -0.02
    caller = started_gate(inside)
    here, depth_m = inside, CLEARANCES.measure(inside[None])[0].copy()
    limits_m = CLEARANCES.limits_m
    for tick in range(1, 60):
        goal = here + rng.normal(0.0, 3.0, N_JOINTS)
        here = caller.check(goal, here, tick * PERIOD_S).goal.copy()
        now_m = CLEARANCES.measure(here[None])[0].copy()
        assert np.all((now_m >= limits_m - 1e-9) | (now_m >= depth_m - 1e-9))
        depth_m = now_m
    goals, verdicts = drive(started_gate(inside), inside, OVER_TABLE)
    np.testing.assert_allclose(goals[-1], OVER_TABLE, atol=1e-6)
    assert all(verdict.rule is not Rule.TABLE for verdict in verdicts)


def test_arm_that_is_pushed_into_the_table_is_not_held_there():
    caller = started_gate(OVER_TABLE)
    pushed = OVER_TABLE + only_lift(55.0)
    verdict = caller.check(OVER_TABLE, pushed, PERIOD_S)
    assert np.all(np.abs(verdict.goal - pushed) <= LEAD + 1e-9)
    assert verdict.goal[1] < pushed[1]


def test_hold_where_the_arm_is_too_near_keeps_it_there():
    inside = OVER_TABLE + only_lift(48.0)
    caller = gate()
    for tick in range(10):
        verdict = caller.check(None, inside, tick * PERIOD_S)
        assert verdict.outcome is Outcome.HOLD
        np.testing.assert_allclose(verdict.goal, inside)


def test_profile_without_a_workspace_lets_poses_through():
    through = OVER_TABLE + only_lift(55.0)
    caller = started_gate(OVER_TABLE, arm={"workspace": None}, **FREE)
    np.testing.assert_allclose(caller.check(through, OVER_TABLE, PERIOD_S).goal, through)


def test_arms_side_by_side_do_not_reach_into_each_other(tmp_path):
    arm = two_arm_profile(tmp_path).arm
    clearances = Clearances(arm.arms, arm.workspace, 1)
    start = np.tile(REACHING, 2)
    # The left arm pans right and the right one left: into each other.
    target = start.copy()
    target[0], target[6] = 60.0, -60.0
    assert nearest_m(start, clearances) > 0.0
    assert nearest_m(target, clearances) < -0.02
    workspace = Workspace(arm)
    reach = np.full(12, 1e3)
    here = start.copy()
    found = None
    for _ in range(100):
        goal = here + np.clip(target - here, -2.0, 2.0)
        found = workspace.follow(goal, here, here, here - reach, here + reach) or found
        assert nearest_m(goal, clearances) >= -1e-9
        here = goal
    assert found.rule is Rule.COLLISION
    assert found.part.startswith("right ")
    assert " to the left " in found.part
    assert found.joint in ("left_shoulder_pan", "right_shoulder_pan")
