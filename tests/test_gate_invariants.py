"""Whatever is asked, measured and timed: no command leaves the gate outside its limits."""

import dataclasses

import numpy as np
import pytest
from gate_caller import ARM, MIDDLE, N_JOINTS, PERIOD_S, PROFILE, only, two_arm_profile
from readings import reading_of

from edge.safety import Outcome, Rule, SafetyGate, TickAges
from edge.safety_check import LimitCheck

ODD_STEPS_S = (0.0, 1e-9, 1e-4, 0.2, 3.0, -0.5, -1e-6)
N_TICKS = 250


class RandomArm:
    """An arm, a policy and a clock that do anything."""

    def __init__(self, seed, profile=PROFILE):
        self.rng = np.random.default_rng(seed)
        self.low = np.array([joint.min_position for joint in profile.arm.joints])
        self.high = np.array([joint.max_position for joint in profile.arm.joints])
        self.n_joints = len(self.low)
        self.present = self.rng.uniform(self.low, self.high)
        self.target = self.present.copy()
        self.goal = None
        self.now_s = 0.0
        self.kind = ("drift", "jumps", "noise", "swing")[seed % 4]

    def tick(self):
        """Return (asked, reading, ages) of the next tick."""
        rng = self.rng
        often = rng.random() < 0.8
        step_s = PERIOD_S * rng.uniform(0.5, 1.5) if often else rng.choice(ODD_STEPS_S)
        self.now_s += step_s
        self._move()
        late_s = max(0.0, rng.normal(0.0, 0.03))
        camera_s = 5.0 if rng.random() < 0.02 else 0.1
        return self._asked(), self._reading(), TickAges(late_s, 0.1, (0.1, camera_s))

    def _move(self):
        rng = self.rng
        if self.goal is not None:
            self.present = self.present + (self.goal - self.present) * rng.uniform(0.0, 1.0)
        self.present = self.present + rng.normal(0.0, 0.2, self.n_joints)
        if rng.random() < 0.02:
            self.present = self.present + rng.normal(0.0, 15.0, self.n_joints)
        if rng.random() < 0.005:
            self.present = rng.uniform(self.low - 5.0, self.high + 5.0)

    def _asked(self):
        rng, luck = self.rng, self.rng.random()
        if self.kind == "drift":
            self.target = self.target + rng.normal(0.0, 2.0, self.n_joints)
        elif self.kind == "swing":
            phase = np.sin(2.0 * self.now_s * rng.uniform(0.9, 1.1, self.n_joints))
            self.target = (self.low + self.high) / 2 + (self.high - self.low) * 0.6 * phase
        elif self.kind == "noise" or luck < 0.05:
            self.target = rng.uniform(self.low - 50.0, self.high + 50.0)
        asked = self.target.copy()
        if luck > 0.97:
            return None
        if luck > 0.95:
            asked[rng.integers(self.n_joints)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
        return asked

    def _reading(self):
        rng = self.rng
        age_s = rng.choice([1e-6, 0.005, 0.15], p=[0.5, 0.47, 0.03]) + 1e-9 * rng.random()
        status = np.zeros(self.n_joints, np.uint8)
        if rng.random() < 0.01:
            status[rng.integers(self.n_joints)] = rng.choice([0x01, 0x20])
        return reading_of(
            self.present,
            self.now_s - age_s,
            velocities=rng.normal(0.0, 20.0, self.n_joints) * (rng.random() < 0.5),
            currents_ma=rng.choice([20.0, 1000.0], self.n_joints, p=[0.8, 0.2]),
            voltages_v=np.full(self.n_joints, rng.choice([12.0, 10.2, 9.0], p=[0.9, 0.08, 0.02])),
            temperatures_c=rng.choice([30.0, 53.0, 60.0], self.n_joints, p=[0.96, 0.02, 0.02]),
            status=status,
        )


@pytest.mark.parametrize("seed", range(40))
def test_no_command_leaves_the_gate_outside_its_limits(seed):
    follow_random(seed, PROFILE)


@pytest.mark.parametrize("seed", range(8))
def test_no_command_for_two_arms_leaves_the_gate_outside_their_limits(seed, tmp_path):
    follow_random(seed, two_arm_profile(tmp_path))


def follow_random(seed, profile):
    arm, gate, check = RandomArm(seed, profile), SafetyGate(profile), LimitCheck(profile)
    for _ in range(N_TICKS):
        asked, reading, ages = arm.tick()
        verdict = gate.check(asked, reading, arm.now_s, ages, "no action chunk")
        if verdict.outcome is Outcome.STOP:
            assert verdict.goal is None
            assert verdict.reason
            break
        held = verdict.outcome is Outcome.HOLD
        assert check.broken(verdict.goal, reading, arm.now_s, held) == []
        arm.goal = verdict.goal.copy()
        if verdict.outcome is Outcome.PASS:
            np.testing.assert_allclose(verdict.goal, asked, atol=1e-8)
        else:
            assert verdict.reason


def test_random_runs_meet_every_kind_of_rule():
    met = set()
    for seed in range(12):
        arm, gate = RandomArm(seed), SafetyGate(PROFILE)
        for _ in range(N_TICKS):
            asked, reading, ages = arm.tick()
            verdict = gate.check(asked, reading, arm.now_s, ages, "no action chunk")
            met.add(verdict.rule)
            if verdict.outcome is Outcome.STOP:
                break
            arm.goal = verdict.goal.copy()
    bending = {Rule.RANGE, Rule.VELOCITY, Rule.ACCELERATION, Rule.TABLE, Rule.COLLISION}
    assert bending | {Rule.GOAL, Rule.STATE, Rule.CAMERA, Rule.SERVO_FAULT} <= met


def broken_by(goals, present=None, held=False, step_s=PERIOD_S):
    """What the check says of the last of some goals, each tick of an arm that follows at once."""
    check = LimitCheck(PROFILE)
    here = goals[0]
    for tick, goal in enumerate(goals):
        reading = reading_of(here if present is None else present, tick * step_s)
        found = check.broken(goal, reading, tick * step_s, held)
        here = goal
    return found


@pytest.mark.parametrize("joint", range(N_JOINTS))
@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_check_notices_each_broken_limit(joint, direction):
    profile = ARM.joints[joint]
    nudge = direction * 1e-3

    def moved(by):
        return only(joint, MIDDLE[joint] + by)

    def names(goals, **options):
        return [line.split(": ")[1].split()[0] for line in broken_by(goals, **options)]

    step = direction * profile.max_velocity * PERIOD_S
    steady = [MIDDLE, moved(step * 0.2), moved(step * 0.55), moved(step * 1.1)]
    assert "velocity" in names([MIDDLE, MIDDLE, moved(step * 0.9)])
    assert names([MIDDLE, moved(step + nudge)]) == ["moved"]
    assert names(steady) == []
    lead = direction * profile.max_lead
    slow = [moved(lead * share) for share in np.linspace(0.0, 1.0, 60)]
    assert names(slow, present=MIDDLE) == []
    assert "lead" in names([*slow, moved(lead + nudge)], present=MIDDLE)
    end = profile.high if direction > 0 else profile.low
    free = dataclasses.replace(PROFILE, arm=dataclasses.replace(ARM, workspace=None))
    check = LimitCheck(free)
    inside, outside = only(joint, end), only(joint, end + nudge)
    assert check.broken(inside, reading_of(inside), 0.0, False) == []
    assert check.broken(outside, reading_of(inside), PERIOD_S, False)[0].startswith(
        f"{profile.name}: goal "
    )


def test_check_notices_a_pose_in_the_table_and_a_goal_that_is_no_number():
    over, through = MIDDLE.copy(), MIDDLE.copy()
    over[1:4], through[1:4] = (-60.0, 60.0, 60.0), (-5.0, 60.0, 60.0)
    found = broken_by([over, through])
    assert any("finger: -" in line and "limit -10 mm" in line for line in found)
    assert "not 6 finite numbers" in broken_by([only(0, np.nan)])[0]
