"""Every motion limit of every joint, swept across its boundary in both directions."""

import numpy as np
import pytest
from gate_caller import ARM, FREE, MIDDLE, N_JOINTS, NAMES, PERIOD_S, gate, only, started_gate

from edge.safety import Outcome, Rule

EPSILON = 1e-3
NO_WORKSPACE = {"workspace": None}
ACCELERATION = np.array([joint.max_acceleration for joint in ARM.joints])
VELOCITY = np.array([joint.max_velocity for joint in ARM.joints])
LEAD = np.array([joint.max_lead for joint in ARM.joints])
each_joint = pytest.mark.parametrize("joint", range(N_JOINTS), ids=NAMES)
both_ways = pytest.mark.parametrize("direction", [-1.0, 1.0])
armed_and_not = pytest.mark.parametrize("started", [True, False], ids=["started", "first goal"])


def free_gate(started, base=MIDDLE, **limits):
    """A gate with one limit in force, at its first goal or after it."""
    limits = {**FREE, **limits}
    if started:
        return started_gate(base, arm=NO_WORKSPACE, **limits), PERIOD_S
    return gate(arm=NO_WORKSPACE, **limits), 0.0


@each_joint
@pytest.mark.parametrize("end", ["low", "high"])
@armed_and_not
def test_range_passes_at_the_limit_and_clamps_beyond_it(joint, end, started):
    limit = getattr(ARM.joints[joint], end)
    outward = 1.0 if end == "high" else -1.0
    for offset in (-1.0, -EPSILON, 0.0, EPSILON, 1.0, 1e6):
        free, now_s = free_gate(started)
        verdict = free.check(only(joint, limit + outward * offset), MIDDLE, now_s)
        # The end itself is approached so that it could still be braked for.
        if offset <= 0.0:
            assert verdict.goal[joint] == pytest.approx(limit + outward * offset, abs=1e-4)
        else:
            assert verdict.outcome is Outcome.CLAMP
            assert verdict.rule is Rule.RANGE
            assert verdict.joint == NAMES[joint]
            assert verdict.value == pytest.approx(limit + outward * offset)
            assert verdict.limit == limit
            assert verdict.goal[joint] == pytest.approx(limit, abs=1e-4)
            assert (verdict.goal[joint] - limit) * outward <= 0.0
        others = np.arange(N_JOINTS) != joint
        np.testing.assert_allclose(verdict.goal[others], MIDDLE[others], atol=1e-9)


@each_joint
@both_ways
@armed_and_not
def test_velocity_passes_at_the_limit_and_clamps_beyond_it(joint, direction, started):
    step = VELOCITY[joint] * PERIOD_S
    for offset in (-0.1, 0.0, EPSILON, 0.5):
        free, now_s = free_gate(started, max_velocity=VELOCITY[joint])
        asked = MIDDLE[joint] + direction * (step + offset)
        verdict = free.check(only(joint, asked), MIDDLE, now_s)
        if offset <= 0.0:
            assert verdict.outcome is Outcome.PASS
            assert verdict.goal[joint] == pytest.approx(asked)
        else:
            assert verdict.outcome is Outcome.CLAMP
            assert verdict.rule is Rule.VELOCITY
            assert verdict.goal[joint] == pytest.approx(MIDDLE[joint] + direction * step)
            assert verdict.limit == VELOCITY[joint]
            assert verdict.reason.startswith(f"{NAMES[joint]}: velocity ")


@each_joint
@both_ways
@armed_and_not
def test_acceleration_passes_at_the_limit_and_clamps_beyond_it(joint, direction, started):
    step = ACCELERATION[joint] * PERIOD_S**2
    for offset in (-0.1, 0.0, EPSILON, 0.5):
        free, now_s = free_gate(started, max_acceleration=ACCELERATION[joint])
        asked = MIDDLE[joint] + direction * (step + offset)
        verdict = free.check(only(joint, asked), MIDDLE, now_s)
        if offset <= 0.0:
            assert verdict.outcome is Outcome.PASS
            assert verdict.goal[joint] == pytest.approx(asked)
        else:
            assert verdict.outcome is Outcome.CLAMP
            assert verdict.rule is Rule.ACCELERATION
            moved = (verdict.goal[joint] - MIDDLE[joint]) * direction
            assert 0.8 * step < moved <= step + 1e-9
            assert verdict.limit == ACCELERATION[joint]
            assert verdict.value > verdict.limit
            assert verdict.reason.startswith(f"{NAMES[joint]}: acceleration ")


@each_joint
@both_ways
@armed_and_not
def test_lead_passes_at_the_limit_and_clamps_beyond_it(joint, direction, started):
    for offset in (-EPSILON, 0.0, EPSILON, 20.0):
        free, now_s = free_gate(started, max_lead=LEAD[joint])
        asked = MIDDLE[joint] + direction * (LEAD[joint] + offset)
        verdict = free.check(only(joint, asked), MIDDLE, now_s)
        if offset <= 0.0:
            assert verdict.outcome is Outcome.PASS
        else:
            assert verdict.outcome is Outcome.CLAMP
            assert verdict.rule is Rule.LEAD
            assert verdict.joint == NAMES[joint]
            assert verdict.limit == direction * LEAD[joint]
            assert verdict.goal[joint] == pytest.approx(MIDDLE[joint] + direction * LEAD[joint])


def follow(caller, goals, present=None):
    """Ask for each goal in turn, by an arm that is where it was told to be; return what was let."""
    let = []
    here = goals[0].copy()
    for tick, goal in enumerate(goals):
        verdict = caller.check(goal, here if present is None else present, tick * PERIOD_S)
        here = verdict.goal.copy()
        let.append(here)
    return np.array(let)


def sine(amplitude_deg, rate_hz, n_ticks=120):
    """Swing the shoulder pan from rest at the middle."""
    t_s = np.arange(n_ticks) * PERIOD_S
    swing = amplitude_deg * (1.0 - np.cos(2.0 * np.pi * rate_hz * t_s))
    return np.array([only(0, MIDDLE[0] + offset) for offset in swing])


def test_motion_within_the_limits_is_followed_exactly():
    # 32 deg at 0.4 Hz: up to 80 deg/s and 202 deg/s2.
    goals = sine(32.0, 0.4)
    np.testing.assert_allclose(follow(gate(arm=NO_WORKSPACE), goals), goals, atol=1e-9)


@each_joint
@both_ways
def test_far_goal_is_reached_without_overshoot_and_within_the_limits(joint, direction):
    base = MIDDLE.copy()
    base[joint] -= direction * 20.0
    goal = base.copy()
    goal[joint] += direction * 40.0
    caller = started_gate(base, arm=NO_WORKSPACE)
    let = follow(caller, np.array([base] + [goal] * 60))
    position = let[:, joint] * direction
    speed = np.diff(position) / PERIOD_S
    change = np.diff(speed, prepend=0.0) / PERIOD_S
    assert speed.max() <= VELOCITY[joint] + 1e-6
    assert speed.max() > 0.7 * VELOCITY[joint]
    assert np.abs(change).max() <= ACCELERATION[joint] + 1e-6
    assert position.max() <= goal[joint] * direction + 1e-6
    assert position[-1] == pytest.approx(goal[joint] * direction, abs=1e-6)


@each_joint
@both_ways
def test_end_of_the_range_is_braked_for_in_time_however_the_clock_jitters(joint, direction):
    rng = np.random.default_rng(7)
    end = ARM.joints[joint].high if direction > 0 else ARM.joints[joint].low
    caller = started_gate(arm=NO_WORKSPACE)
    here, now_s, last_speed = MIDDLE.copy(), 0.0, 0.0
    for _ in range(400):
        step_s = PERIOD_S * rng.uniform(0.2, 1.8)
        now_s += step_s
        verdict = caller.check(only(joint, end + direction * 500.0), here, now_s)
        speed = (verdict.goal[joint] - here[joint]) / step_s
        assert abs(speed - last_speed) <= ACCELERATION[joint] * step_s + 1e-6
        here, last_speed = verdict.goal.copy(), speed
    assert (here[joint] - end) * direction <= 1e-9
    assert here[joint] == pytest.approx(end, abs=0.01)


def test_goal_that_stops_abruptly_is_overrun_no_more_than_braking_takes():
    caller = gate(arm=NO_WORKSPACE)
    goals = [only(0, MIDDLE[0] + 60.0 * max(0, tick - 5) * PERIOD_S) for tick in range(25)]
    goals = np.array(goals + [goals[-1]] * 30)
    let = follow(caller, goals)
    overrun = let[:, 0].max() - goals[-1, 0]
    assert 0.0 < overrun <= 60.0**2 / (2 * ACCELERATION[0])
    np.testing.assert_allclose(let[-1], goals[-1], atol=1e-6)


def test_velocity_follows_the_clock_and_not_the_number_of_calls():
    caller = started_gate(arm=NO_WORKSPACE)
    for _ in range(50):
        verdict = caller.check(MIDDLE + 50.0, MIDDLE, 0.0)
    np.testing.assert_allclose(verdict.goal, MIDDLE)
    assert verdict.outcome is Outcome.CLAMP


def test_time_lost_in_a_stall_is_not_saved_up_for_a_jump():
    caller = started_gate(arm=NO_WORKSPACE, max_acceleration=1e6)
    verdict = caller.check(MIDDLE + 11.0, MIDDLE, 5.0)
    assert np.all(verdict.goal - MIDDLE <= VELOCITY * ARM.safety.catch_up_s + 1e-9)


def test_goal_that_nobody_moved_for_a_while_starts_again_from_rest():
    caller = started_gate(arm=NO_WORKSPACE)
    here = MIDDLE.copy()
    for tick in range(1, 10):
        here = caller.check(MIDDLE + 100.0, here, tick * PERIOD_S).goal.copy()
    verdict = caller.check(MIDDLE + 100.0, here, 9 * PERIOD_S + 2.0)
    longest = ACCELERATION * ARM.safety.catch_up_s**2
    assert np.all(verdict.goal - here <= longest + 1e-9)


def test_clock_that_steps_back_allows_no_motion():
    caller = gate(arm=NO_WORKSPACE)
    caller.check(MIDDLE, MIDDLE, 10.0)
    np.testing.assert_allclose(caller.check(MIDDLE + 40.0, MIDDLE, 9.0).goal, MIDDLE)


@both_ways
def test_lead_wins_when_something_moves_the_arm(direction):
    caller = started_gate(arm=NO_WORKSPACE)
    pushed = MIDDLE + direction * 40.0
    verdict = caller.check(MIDDLE, pushed, PERIOD_S)
    np.testing.assert_allclose(verdict.goal, pushed - direction * LEAD)
    assert verdict.rule is Rule.LEAD


def test_blocked_arm_is_led_by_no_more_than_the_limit():
    caller = started_gate(arm=NO_WORKSPACE)
    let = follow(caller, np.tile(MIDDLE + 60.0, (60, 1)), present=MIDDLE)
    np.testing.assert_allclose(let[-1], MIDDLE + LEAD)


@both_ways
def test_joint_outside_its_range_is_led_back_and_never_further_out(direction):
    end = np.array([j.high if direction > 0 else j.low for j in ARM.joints])
    here = end + direction * 15.0
    caller = gate(arm=NO_WORKSPACE)
    for tick in range(200):
        verdict = caller.check(end + direction * 40.0, here, tick * PERIOD_S)
        assert np.all((verdict.goal - here) * direction <= 1e-9)
        here = verdict.goal.copy()
    np.testing.assert_allclose(here, end, atol=1e-3)
