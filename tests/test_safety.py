import dataclasses
import math

import numpy as np
import pytest
from readings import reading_of

from edge.profile import load_profile
from edge.safety import Outcome, Rule, SafetyGate, TickAges

PROFILE = load_profile("sim")
ARM = PROFILE.arm
N_JOINTS = len(ARM.joints)
PERIOD_S = 1.0 / ARM.control_hz
MIDDLE = np.array([(joint.low + joint.high) / 2 for joint in ARM.joints])
EPSILON = 1e-3
each_joint = pytest.mark.parametrize("joint", range(N_JOINTS), ids=[j.name for j in ARM.joints])


def gate(start_gate_deg=math.inf, **limits):
    """A gate with every limit of the shipped arm except those set to infinity here."""
    joints = tuple(dataclasses.replace(joint, **limits) for joint in ARM.joints)
    arm = dataclasses.replace(ARM, joints=joints)
    free = SafetyGate(dataclasses.replace(PROFILE, arm=arm, start_gate_deg=start_gate_deg))
    return Caller(free)


class Caller:
    """The gate, asked with a fresh reading and fresh ages unless told otherwise."""

    def __init__(self, gate):
        self.gate = gate

    def check(self, goal, present, now_s, measured_s=None, missing="no action chunk"):
        reading = reading_of(present, now_s if measured_s is None else measured_s)
        return self.gate.check(goal, reading, now_s, TickAges(0.0, 0.1, (0.1, 0.1)), missing)


def only(joint, value, base=MIDDLE):
    goal = base.copy()
    goal[joint] = value
    return goal


@each_joint
@pytest.mark.parametrize("end", ["low", "high"])
def test_range_passes_at_the_limit_and_clamps_beyond_it(joint, end):
    limit = getattr(ARM.joints[joint], end)
    outward = 1.0 if end == "high" else -1.0
    for offset in (-1.0, -EPSILON, 0.0, EPSILON, 1.0, 1e6):
        free = gate(max_velocity=math.inf, max_lead=math.inf)
        verdict = free.check(only(joint, limit + outward * offset), MIDDLE, 0.0)
        if offset <= 0.0:
            assert verdict.outcome is Outcome.PASS
            assert verdict.goal[joint] == limit + outward * offset
        else:
            assert verdict.outcome is Outcome.CLAMP
            assert verdict.rule is Rule.RANGE
            assert verdict.joint == ARM.joints[joint].name
            assert verdict.goal[joint] == limit
        others = np.arange(N_JOINTS) != joint
        np.testing.assert_array_equal(verdict.goal[others], MIDDLE[others])


@each_joint
@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_velocity_passes_at_the_limit_and_clamps_beyond_it(joint, direction):
    step = ARM.joints[joint].max_velocity * PERIOD_S
    for offset in (-0.1, 0.0, EPSILON, 0.5):
        free = gate(max_lead=math.inf)
        free.check(MIDDLE, MIDDLE, 0.0)
        asked = MIDDLE[joint] + direction * (step + offset)
        verdict = free.check(only(joint, asked), MIDDLE, PERIOD_S)
        if offset <= 0.0:
            assert verdict.outcome is Outcome.PASS
            assert verdict.goal[joint] == pytest.approx(asked)
        else:
            assert verdict.outcome is Outcome.CLAMP
            assert verdict.rule is Rule.VELOCITY
            assert verdict.goal[joint] == pytest.approx(MIDDLE[joint] + direction * step)
            assert verdict.limit == ARM.joints[joint].max_velocity
            assert ARM.joints[joint].name in verdict.reason


@each_joint
@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_lead_passes_at_the_limit_and_clamps_beyond_it(joint, direction):
    lead = ARM.joints[joint].max_lead
    for offset in (-EPSILON, 0.0, EPSILON, 20.0):
        free = gate(max_velocity=math.inf)
        asked = MIDDLE[joint] + direction * (lead + offset)
        verdict = free.check(only(joint, asked), MIDDLE, 0.0)
        if offset <= 0.0:
            assert verdict.outcome is Outcome.PASS
        else:
            assert verdict.outcome is Outcome.CLAMP
            assert verdict.rule is Rule.LEAD
            assert verdict.goal[joint] == pytest.approx(MIDDLE[joint] + direction * lead)


def test_velocity_follows_the_clock_and_not_the_number_of_calls():
    free = gate(max_lead=math.inf)
    free.check(MIDDLE, MIDDLE, 0.0)
    for _ in range(50):
        verdict = free.check(MIDDLE + 50.0, MIDDLE, 0.0)
    np.testing.assert_allclose(verdict.goal, MIDDLE)


def test_time_lost_in_a_stall_is_not_saved_up_for_a_jump():
    free = gate(max_lead=math.inf)
    free.check(MIDDLE, MIDDLE, 0.0)
    verdict = free.check(MIDDLE + 40.0, MIDDLE, 5.0)
    moved = verdict.goal - MIDDLE
    limit = np.array([joint.max_velocity for joint in ARM.joints]) * 2 * PERIOD_S
    assert np.all(moved <= limit + 1e-9)


def test_clock_that_steps_back_allows_no_motion():
    free = gate(max_lead=math.inf)
    free.check(MIDDLE, MIDDLE, 10.0)
    np.testing.assert_allclose(free.check(MIDDLE + 40.0, MIDDLE, 9.0).goal, MIDDLE)


@each_joint
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_goal_that_is_not_finite_holds_and_is_never_written(joint, value):
    free = gate()
    verdict = free.check(only(joint, value), MIDDLE, 0.0)
    assert verdict.outcome is Outcome.HOLD
    assert verdict.reason == f"{ARM.joints[joint].name}: goal is {value}"
    np.testing.assert_array_equal(verdict.goal, MIDDLE)


@each_joint
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_measured_position_that_is_not_finite_stops(joint, value):
    verdict = gate().check(MIDDLE, only(joint, value), 0.0)
    assert verdict.outcome is Outcome.STOP
    assert verdict.goal is None
    assert verdict.reason == f"{ARM.joints[joint].name}: measured position is {value}"


def test_hold_keeps_the_first_measured_position_while_the_arm_sags():
    free = gate()
    for tick in range(30):
        sag = 0.1 * tick
        verdict = free.check(None, MIDDLE - sag, tick * PERIOD_S)
        assert verdict.outcome is Outcome.HOLD
        assert verdict.reason == "no action chunk"
        np.testing.assert_allclose(verdict.goal, MIDDLE)


def test_held_arm_that_is_pushed_away_is_not_pushed_back_beyond_the_lead():
    free = gate()
    free.check(None, MIDDLE, 0.0)
    verdict = free.check(None, MIDDLE - 30.0, PERIOD_S)
    lead = np.array([joint.max_lead for joint in ARM.joints])
    np.testing.assert_allclose(verdict.goal, MIDDLE - 30.0 + lead)
    np.testing.assert_allclose(free.check(None, MIDDLE - 1.0, 2 * PERIOD_S).goal, MIDDLE)


def test_hold_latches_anew_after_motion():
    free = gate()
    free.check(None, MIDDLE, 0.0)
    free.check(MIDDLE + 1.0, MIDDLE, PERIOD_S)
    np.testing.assert_allclose(free.check(None, MIDDLE + 1.0, 2 * PERIOD_S).goal, MIDDLE + 1.0)


def test_motion_after_a_hold_starts_at_the_held_goal_within_the_velocity_limit():
    free = gate()
    for tick in range(10):
        free.check(None, MIDDLE, tick * PERIOD_S)
    verdict = free.check(MIDDLE + 8.0, MIDDLE, 10 * PERIOD_S)
    assert verdict.outcome is Outcome.CLAMP
    step = np.array([joint.max_velocity for joint in ARM.joints]) * PERIOD_S
    assert np.all(verdict.goal - MIDDLE <= step + 1e-9)


def test_hold_for_too_long_stops_with_the_first_cause():
    free = gate()
    limit_s = ARM.safety.max_hold_s
    assert free.check(None, MIDDLE, 0.0, missing="policy is late").outcome is Outcome.HOLD
    assert free.check(None, MIDDLE, limit_s, missing="policy is late").outcome is Outcome.HOLD
    verdict = free.check(None, MIDDLE, limit_s + EPSILON, missing="policy is late")
    assert verdict.outcome is Outcome.STOP
    assert verdict.reason == f"held for {limit_s:.1f} s, limit {limit_s:.1f}: policy is late"


def test_stop_is_final():
    free = gate()
    free.check(MIDDLE, only(0, math.nan), 0.0)
    verdict = free.check(MIDDLE, MIDDLE, PERIOD_S)
    assert verdict.outcome is Outcome.STOP
    assert verdict.goal is None


def test_state_age_holds_then_stops_exactly_beyond_its_limits():
    hold_s, stop_s = ARM.safety.hold_state_age_s, ARM.safety.stop_state_age_s
    for age_s, outcome in [
        (0.0, Outcome.PASS),
        (hold_s, Outcome.PASS),
        (hold_s + EPSILON, Outcome.HOLD),
        (stop_s, Outcome.HOLD),
        (stop_s + EPSILON, Outcome.STOP),
    ]:
        verdict = gate().check(MIDDLE, MIDDLE, age_s, measured_s=0.0)
        assert verdict.outcome is outcome, age_s
    assert verdict.reason == "servo state is 301 ms old, limit 300"


@each_joint
def test_start_gate_stops_a_first_goal_far_from_the_arm(joint):
    if ARM.joints[joint].unit != "degrees":
        wide = gate(15.0).check(only(joint, MIDDLE[joint] + 45.0), MIDDLE, 0.0)
        assert wide.outcome is Outcome.CLAMP  # an opening is no angle: nothing to mistake
        return
    assert gate(15.0).check(only(joint, MIDDLE[joint] + 15.0), MIDDLE, 0.0).outcome is Outcome.CLAMP
    verdict = gate(15.0).check(only(joint, MIDDLE[joint] + 15.0 + EPSILON), MIDDLE, 0.0)
    assert verdict.outcome is Outcome.STOP
    assert verdict.rule is Rule.START
    assert f"{ARM.joints[joint].name}: first goal" in verdict.reason
    assert "limit 15.0" in verdict.reason


def test_start_gate_looks_at_the_first_goal_only():
    free = gate(15.0)
    free.check(None, MIDDLE, 0.0)
    assert free.check(MIDDLE, MIDDLE, PERIOD_S).outcome is Outcome.PASS
    assert free.check(MIDDLE + 30.0, MIDDLE, 2 * PERIOD_S).outcome is Outcome.CLAMP


def test_joint_outside_its_range_is_led_back_and_never_further_out():
    low = np.array([joint.low for joint in ARM.joints])
    present = low - 15.0
    free = gate()
    verdict = free.check(low - 40.0, present, 0.0)
    assert np.all(verdict.goal >= present)
    for tick in range(1, 60):
        verdict = free.check(low - 40.0, verdict.goal.copy(), tick * PERIOD_S)
    np.testing.assert_allclose(verdict.goal, low)


def test_what_is_written_never_leads_the_arm_by_more_than_the_limit():
    rng = np.random.default_rng(5)
    free = gate()
    lead = np.array([joint.max_lead for joint in ARM.joints])
    present = MIDDLE.copy()
    for tick in range(500):
        present += rng.normal(0.0, 6.0, N_JOINTS)
        asked = None if tick % 17 == 0 else rng.uniform(-400.0, 400.0, N_JOINTS)
        verdict = free.check(asked, present, tick * PERIOD_S * rng.uniform(0.9, 1.1))
        assert np.all(np.abs(verdict.goal - present) <= lead + 1e-9)
        assert np.all(np.isfinite(verdict.goal))


def test_gate_does_not_alter_the_goal_it_is_given():
    goal = MIDDLE + 90.0
    before = goal.copy()
    gate().check(goal, MIDDLE, 0.0)
    np.testing.assert_array_equal(goal, before)
