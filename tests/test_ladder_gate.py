"""Slower motion: the gate's own derating, with the ladder as one more reason for it."""

import numpy as np
import pytest
from gate_caller import ARM, MIDDLE, N_JOINTS, NAMES, PERIOD_S, started_gate
from readings import reading_of

from edge.safety import Outcome, Rule
from edge.safety_check import LimitCheck

STILL = {"arm": {"workspace": None}}
TOP = np.array([joint.max_velocity for joint in ARM.joints])
HOT = ARM.derating.temperature


def chase(caller, n_ticks, first_tick=1, here=MIDDLE, **changes):
    """Chase a goal that stays out of reach; return (speeds (n_ticks, n_joints), last goal)."""
    here, speeds = here.copy(), []
    for tick in range(first_tick, first_tick + n_ticks):
        goal = here + 50.0 * (-1) ** (tick // 10)
        verdict = caller.check(goal, here, tick * PERIOD_S, **changes)
        assert verdict.outcome is Outcome.CLAMP
        speeds.append(np.abs(verdict.goal - here) / PERIOD_S)
        here = verdict.goal.copy()
    return np.array(speeds), here


@pytest.mark.parametrize("share", [0.05, 0.3, 0.95, 1.0])
def test_speed_keeps_to_the_share_of_every_joint(share):
    caller = started_gate(**STILL)
    caller.gate.slow_to(share)
    speeds, _ = chase(caller, 60)
    assert (speeds <= TOP * share + 1e-6).all()
    assert speeds.max() == pytest.approx((TOP * share).max(), rel=0.05)


def test_arm_under_way_brakes_to_the_share_within_its_acceleration_and_gets_it_back():
    caller = started_gate(**STILL)
    check = LimitCheck(caller.profile)
    here = MIDDLE.copy()
    speeds = []
    for tick in range(1, 91):
        caller.gate.slow_to(0.2 if 30 < tick <= 60 else 1.0)
        goal = here + 50.0 * (-1) ** (tick // 10)
        verdict = caller.check(goal, here, tick * PERIOD_S)
        reading = reading_of(here, tick * PERIOD_S)
        assert check.broken(verdict.goal, reading, tick * PERIOD_S, False) == []
        speeds.append(np.abs(verdict.goal - here) / PERIOD_S)
        here = verdict.goal.copy()
    speeds = np.array(speeds)
    braking = np.ceil(TOP / np.array([j.max_acceleration for j in ARM.joints]) / PERIOD_S).max()
    slowed = speeds[30 + int(braking) : 60]
    assert (slowed <= 0.2 * TOP + 1e-6).all()
    assert speeds[:30].max() > 0.9 * TOP.max()
    assert speeds[60:].max() > 0.9 * TOP.max()


def test_ladder_is_named_where_the_joint_itself_is_within_its_limit():
    caller = started_gate(**STILL)
    caller.gate.slow_to(0.5)
    _, here = chase(caller, 30)
    verdict = caller.check(here + 0.9 * TOP * PERIOD_S, here, 31 * PERIOD_S)
    assert verdict.rule is Rule.LADDER
    assert verdict.joint in NAMES
    assert (
        verdict.reason == f"{verdict.joint}: slowed down by the ladder to 50% of the speed limits"
    )


@pytest.mark.parametrize(("share", "rule"), [(0.9, Rule.TEMPERATURE), (0.3, Rule.LADDER)])
def test_the_slower_of_heat_and_ladder_decides(share, rule):
    temperatures = np.full(N_JOINTS, 30.0)
    temperatures[2] = (HOT.derate_c + HOT.stop_c) / 2
    heat_share = ARM.derating.speed_share + (1.0 - ARM.derating.speed_share) / 2
    caller = started_gate(**STILL)
    caller.gate.slow_to(share)
    speeds, here = chase(caller, 40, temperatures_c=temperatures)
    assert (speeds <= TOP * min(share, heat_share) + 1e-6).all()
    asked = here + 0.95 * TOP * PERIOD_S
    verdict = caller.check(asked, here, 41 * PERIOD_S, temperatures_c=temperatures)
    assert verdict.rule is rule
