"""What the gate holds and stops for, and which of several findings decides."""

import dataclasses
import math

import numpy as np
import pytest
from gate_caller import (
    ARM,
    FRESH,
    MIDDLE,
    N_JOINTS,
    NAMES,
    PERIOD_S,
    PROFILE,
    gate,
    only,
    started_gate,
)

from edge.safety import Outcome, Rule

EPSILON = 1e-3
TIMES = ARM.safety
each_joint = pytest.mark.parametrize("joint", range(N_JOINTS), ids=NAMES)
armed_and_not = pytest.mark.parametrize("started", [True, False], ids=["started", "first goal"])
LEAD = np.array([joint.max_lead for joint in ARM.joints])


def ready(started):
    return (started_gate(), PERIOD_S) if started else (gate(), 0.0)


def test_goal_where_the_arm_is_passes():
    verdict = gate().check(MIDDLE, MIDDLE, 0.0)
    assert (verdict.outcome, verdict.rule, verdict.joint) == (Outcome.PASS, Rule.NONE, "")
    assert verdict.reason == ""
    np.testing.assert_array_equal(verdict.goal, MIDDLE)


@each_joint
@armed_and_not
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_goal_that_is_not_finite_holds_and_is_never_written(joint, value, started):
    free, now_s = ready(started)
    verdict = free.check(only(joint, value), MIDDLE, now_s)
    assert verdict.outcome is Outcome.HOLD
    assert verdict.reason == f"{NAMES[joint]}: goal is {value}"
    np.testing.assert_allclose(verdict.goal, MIDDLE)


@each_joint
@armed_and_not
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_measured_position_that_is_not_finite_stops(joint, value, started):
    free, now_s = ready(started)
    verdict = free.check(MIDDLE, only(joint, value), now_s)
    assert verdict.outcome is Outcome.STOP
    assert verdict.goal is None
    assert verdict.reason == f"{NAMES[joint]}: measured position is {value}"


def test_hold_keeps_the_first_measured_position_while_the_arm_sags():
    free = gate()
    for tick in range(30):
        verdict = free.check(None, MIDDLE - 0.1 * tick, tick * PERIOD_S)
        assert verdict.outcome is Outcome.HOLD
        assert verdict.reason == "no action chunk"
        np.testing.assert_allclose(verdict.goal, MIDDLE)


def test_held_arm_that_is_pushed_away_is_not_pushed_back_beyond_the_lead():
    free = gate()
    free.check(None, MIDDLE, 0.0)
    verdict = free.check(None, MIDDLE - 30.0, PERIOD_S)
    np.testing.assert_allclose(verdict.goal, MIDDLE - 30.0 + LEAD)
    for tick in range(2, 60):
        verdict = free.check(None, MIDDLE - 1.0, tick * PERIOD_S)
    np.testing.assert_allclose(verdict.goal, MIDDLE, atol=1e-6)


def test_hold_latches_anew_after_motion():
    free = gate()
    free.check(None, MIDDLE, 0.0)
    free.check(MIDDLE + 1.0, MIDDLE, PERIOD_S)
    moved = MIDDLE + 0.5
    np.testing.assert_allclose(free.check(None, moved, 2 * PERIOD_S).goal, moved, atol=1e-9)


def test_hold_of_an_arm_outside_its_range_does_not_move_it():
    parked = np.array([joint.low for joint in ARM.joints]) - 3.0
    free = gate(arm={"workspace": None})
    for tick in range(10):
        verdict = free.check(None, parked, tick * PERIOD_S)
        np.testing.assert_allclose(verdict.goal, parked)


def test_hold_for_too_long_stops_with_its_cause():
    free = gate()
    limit_s = TIMES.max_hold_s
    assert free.check(None, MIDDLE, 0.0, missing="policy is late").outcome is Outcome.HOLD
    assert free.check(None, MIDDLE, limit_s, missing="policy is late").outcome is Outcome.HOLD
    verdict = free.check(None, MIDDLE, limit_s + EPSILON, missing="policy is late")
    assert verdict.outcome is Outcome.STOP
    assert verdict.rule is Rule.HOLD_TIME
    assert verdict.reason == f"held for {limit_s:.1f} s, limit {limit_s:.1f}: policy is late"


def test_stop_is_final():
    free = gate()
    free.check(MIDDLE, only(0, math.nan), 0.0)
    verdict = free.check(MIDDLE, MIDDLE, PERIOD_S)
    assert verdict.outcome is Outcome.STOP
    assert verdict.goal is None


@armed_and_not
def test_state_age_holds_then_stops_exactly_beyond_its_limits(started):
    hold_s, stop_s = TIMES.hold_state_age_s, TIMES.stop_state_age_s
    for age_s, outcome in [
        (0.0, Outcome.PASS),
        (hold_s - 1e-9, Outcome.PASS),
        (hold_s + EPSILON, Outcome.HOLD),
        (stop_s - 1e-9, Outcome.HOLD),
        (stop_s + EPSILON, Outcome.STOP),
    ]:
        free, now_s = ready(started)
        verdict = free.check(MIDDLE, MIDDLE, now_s + 1.0, measured_s=now_s + 1.0 - age_s)
        assert verdict.outcome is outcome, age_s
    assert verdict.reason == "servo state is 301 ms old, limit 300 ms"


@pytest.mark.parametrize("camera", range(len(PROFILE.cameras)))
@armed_and_not
def test_camera_holds_beyond_its_own_age_limit_and_is_named(camera, started):
    limit_s, name = PROFILE.cameras[camera].max_age_s, PROFILE.cameras[camera].name
    for age_s, outcome in [
        (limit_s, Outcome.PASS),
        (limit_s + EPSILON, Outcome.HOLD),
        (math.inf, Outcome.HOLD),
        (math.nan, Outcome.HOLD),
    ]:
        cameras_s = tuple(age_s if at == camera else 0.1 for at in range(len(PROFILE.cameras)))
        free, now_s = ready(started)
        ages = dataclasses.replace(FRESH, cameras_s=cameras_s)
        verdict = free.check(MIDDLE, MIDDLE, now_s, ages=ages)
        assert verdict.outcome is outcome, age_s
        if age_s == limit_s + EPSILON:
            assert verdict.rule is Rule.CAMERA
            assert verdict.reason == (
                f"camera {name}: newest picture is 1001 ms old, limit 1000 ms"
            )
    assert verdict.reason == f"camera {name}: no picture yet"


def test_dead_camera_ends_in_a_stop():
    free = started_gate()
    for tick in range(1, 400):
        ages = dataclasses.replace(FRESH, cameras_s=(0.1, 2.0 + tick * PERIOD_S))
        verdict = free.check(MIDDLE + 5.0, MIDDLE, tick * PERIOD_S, ages=ages)
        if verdict.outcome is Outcome.STOP:
            break
    assert "limit 10.0: camera wrist: newest picture is" in verdict.reason


@armed_and_not
def test_goal_from_actions_that_are_too_old_is_not_followed(started):
    limit_s = PROFILE.board.max_chunk_age_s
    for age_s, outcome in [
        (limit_s, Outcome.PASS),
        (limit_s + EPSILON, Outcome.HOLD),
        (math.nan, Outcome.HOLD),
    ]:
        free, now_s = ready(started)
        ages = dataclasses.replace(FRESH, chunk_s=age_s)
        verdict = free.check(MIDDLE, MIDDLE, now_s, ages=ages)
        assert verdict.outcome is outcome, age_s
        if age_s == limit_s + EPSILON:
            assert verdict.rule is Rule.CHUNK
            assert verdict.reason == "actions are from 30.0 s ago, limit 30.0 s"


@armed_and_not
def test_late_tick_is_held(started):
    for late_s, outcome in [
        (TIMES.late_tick_s, Outcome.PASS),
        (TIMES.late_tick_s + EPSILON, Outcome.HOLD),
    ]:
        free, now_s = ready(started)
        ages = dataclasses.replace(FRESH, late_s=late_s)
        verdict = free.check(MIDDLE, MIDDLE, now_s, ages=ages)
        assert verdict.outcome is outcome
    assert verdict.rule is Rule.LATE
    assert verdict.reason == "tick is 101 ms late, limit 100 ms"


@pytest.mark.parametrize("extra", [0, 1])
def test_ticks_that_are_late_too_often_stop(extra):
    free = started_gate()
    late = dataclasses.replace(FRESH, late_s=0.2)
    apart_s = TIMES.late_window_s / (TIMES.late_ticks + 1)
    for number in range(TIMES.late_ticks + extra):
        verdict = free.check(MIDDLE, MIDDLE, number * apart_s, ages=late)
    if not extra:
        assert verdict.outcome is Outcome.HOLD
        return
    assert verdict.outcome is Outcome.STOP
    assert verdict.reason == (
        "tick is 200 ms late, limit 100 ms, more than 8 times in 5 s; free the machine"
    )


def test_ticks_that_are_late_now_and_then_never_stop():
    free = started_gate()
    late = dataclasses.replace(FRESH, late_s=0.2)
    apart_s = TIMES.late_window_s / TIMES.late_ticks + EPSILON
    for number in range(1, 200):
        verdict = free.check(MIDDLE, MIDDLE, number * apart_s, ages=late)
        assert verdict.outcome is Outcome.HOLD
        verdict = free.check(MIDDLE, MIDDLE, number * apart_s + PERIOD_S)
        assert verdict.outcome is Outcome.PASS


@each_joint
def test_start_gate_stops_a_first_goal_far_from_the_arm(joint):
    if ARM.joints[joint].is_gripper:
        wide = gate(15.0).check(only(joint, MIDDLE[joint] + 45.0), MIDDLE, 0.0)
        assert wide.outcome is Outcome.CLAMP  # an opening is no angle: nothing to mistake
        return
    for direction in (-1.0, 1.0):
        near = only(joint, MIDDLE[joint] + direction * 15.0)
        assert gate(15.0).check(near, MIDDLE, 0.0).outcome is Outcome.CLAMP
        far = only(joint, MIDDLE[joint] + direction * (15.0 + EPSILON))
        verdict = gate(15.0).check(far, MIDDLE, 0.0)
        assert verdict.outcome is Outcome.STOP
        assert verdict.rule is Rule.START
        assert f"{NAMES[joint]}: first goal" in verdict.reason
        assert "limit 15.0" in verdict.reason


def test_start_gate_looks_at_the_first_goal_only():
    free = gate(15.0)
    free.check(None, MIDDLE, 0.0)
    assert free.check(MIDDLE, MIDDLE, PERIOD_S).outcome is Outcome.PASS
    assert free.check(MIDDLE + 30.0, MIDDLE, 2 * PERIOD_S).outcome is Outcome.CLAMP


def test_gravest_finding_decides_and_the_first_rule_among_equals():
    faulty = np.zeros(N_JOINTS, np.uint8)
    faulty[3] = 0x20
    blind = dataclasses.replace(FRESH, cameras_s=(9.0, 0.1))
    free = started_gate()
    both = free.check(None, MIDDLE, PERIOD_S, ages=blind, status=faulty, missing="no chunk")
    assert (both.outcome, both.rule) == (Outcome.HOLD, Rule.SERVO_FAULT)
    no_fault = free.check(None, MIDDLE, 2 * PERIOD_S, ages=blind, missing="no chunk")
    assert no_fault.rule is Rule.CAMERA
    stale_too = free.check(
        None, MIDDLE, 1.0, measured_s=1.0 - TIMES.stop_state_age_s - 0.1, ages=blind
    )
    assert (stale_too.outcome, stale_too.rule) == (Outcome.STOP, Rule.STATE)


def test_gate_does_not_alter_what_it_is_given():
    goal, present = MIDDLE + 90.0, MIDDLE.copy()
    before = goal.copy()
    free = gate()
    free.check(goal, present, 0.0)
    free.check(None, present, PERIOD_S)
    np.testing.assert_array_equal(goal, before)
    np.testing.assert_array_equal(present, MIDDLE)


def test_camera_ages_must_be_those_of_the_profile():
    ages = dataclasses.replace(FRESH, cameras_s=(0.1,))
    with pytest.raises(ValueError, match="1 camera ages for 2 cameras"):
        gate().check(MIDDLE, MIDDLE, 0.0, ages=ages)
