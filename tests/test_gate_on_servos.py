"""The gate and emulated servos in one loop, on the emulator's clock: what limits bring about."""

import dataclasses

import numpy as np
import pytest
from emulated_arm import memory_arm
from gate_caller import ARM, FRESH, NAMES, PERIOD_S, PROFILE

from edge.safety import Outcome, Rule, SafetyGate
from edge.safety_check import LimitCheck
from firmware_bridge.arming import ArmLimits
from firmware_bridge.emulator.faults import Event
from firmware_bridge.packets import StatusBit

LIMITS = ArmLimits(
    torque_limits_per_mille=tuple(joint.torque_limit_permille for joint in ARM.joints),
    acceleration_deg_s2=ARM.arming.acceleration_deg_s2,
    arming_max_temperature_c=ARM.arming.max_temperature_c,
    arming_max_motion_deg=ARM.arming.max_motion_deg,
    max_position_gain=ARM.arming.max_position_gain,
    ramp_s=0.2,
)
# The emulated motors carry nothing, so neither a table nor a pose is of interest here.
OPEN = dataclasses.replace(
    PROFILE, arm=dataclasses.replace(ARM, workspace=None), start_gate_deg=360.0
)
GRIPPER = NAMES.index("gripper")


class Drive:
    """An armed arm on the emulated bus, a gate, and the check of what the gate let through."""

    def __init__(self):
        self.arm, self.transport = memory_arm(limits=LIMITS)
        self.arm.arm()
        self.gate, self.check = SafetyGate(OPEN), LimitCheck(OPEN)
        self.start = self.arm.read().positions
        self.readings, self.verdicts = [], []

    def event(self, kind, joint, value=None):
        self.transport.bus.inject(Event(kind, ids=frozenset({joint + 1}), value=value))

    def ask(self, goal, seconds):
        """Ask for one goal until the time is over or the gate stops; return the last verdict."""
        for _ in range(round(seconds / PERIOD_S)):
            began_s = self.transport.clock()
            reading = self.arm.read()
            now_s = self.transport.clock()
            verdict = self.gate.check(goal, reading, now_s, FRESH, "nothing is asked")
            self.readings.append(reading)
            self.verdicts.append(verdict)
            if verdict.outcome is Outcome.STOP:
                break
            held = verdict.outcome is Outcome.HOLD
            assert self.check.broken(verdict.goal, reading, now_s, held) == []
            self.arm.write_goals(verdict.goal)
            self.transport.sleep(PERIOD_S - (self.transport.clock() - began_s))
        return self.verdicts[-1]

    def offset(self, joint, by):
        goal = self.start.copy()
        goal[joint] += by
        return goal

    def latched(self):
        """Whether any reply ever told of an overload."""
        return any((reading.status & StatusBit.OVERLOAD).any() for reading in self.readings)


def test_goal_is_reached_within_the_limits_and_without_a_finding_at_the_end():
    drive = Drive()
    goal = drive.start + np.array([40.0, 30.0, -30.0, 20.0, -40.0, 30.0])
    last = drive.ask(goal, 3.0)
    assert last.outcome is Outcome.PASS
    np.testing.assert_allclose(drive.readings[-1].positions, goal, atol=1.5)
    assert not drive.latched()


def test_gripper_that_meets_something_keeps_a_squeeze_far_below_its_overload():
    drive = Drive()
    drive.event("block", GRIPPER)
    last = drive.ask(drive.offset(GRIPPER, -35.0), 6.0)
    present = drive.readings[-1].positions[GRIPPER]
    assert (last.rule, last.joint) == (Rule.STALL, "gripper")
    assert present - last.goal[GRIPPER] == pytest.approx(ARM.stall.squeeze_percent, abs=0.3)
    currents = [reading.currents_ma[GRIPPER] for reading in drive.readings]
    assert currents[-1] < 0.4 * max(currents)
    assert not drive.latched()


@pytest.mark.parametrize("joint", range(GRIPPER), ids=NAMES[:GRIPPER])
@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_blocked_joint_stops_the_arm_before_its_overload_protection(joint, direction):
    drive = Drive()
    drive.event("block", joint)
    last = drive.ask(drive.offset(joint, direction * 40.0), 6.0)
    assert (last.outcome, last.rule, last.joint) == (Outcome.STOP, Rule.STALL, NAMES[joint])
    assert not drive.latched()


@pytest.mark.parametrize("joint", range(len(NAMES)), ids=NAMES)
def test_hot_servo_ends_in_a_stop_that_names_it(joint):
    drive = Drive()
    drive.event("hot", joint, 65.0)
    last = drive.ask(drive.start, 4.0)
    assert (last.outcome, last.rule, last.joint) == (Outcome.STOP, Rule.TEMPERATURE, NAMES[joint])


def test_warm_servo_slows_the_arm_down():
    speeds = []
    for temperature_c in (30.0, 58.0):
        drive = Drive()
        drive.event("hot", 1, temperature_c)
        drive.ask(drive.offset(0, 60.0), 0.7)
        speeds.append(max(reading.velocities[0] for reading in drive.readings))
    assert speeds[1] < 0.75 * speeds[0]


def test_sagging_supply_ends_in_a_stop_that_names_it():
    drive = Drive()
    drive.ask(drive.start, 0.2)
    drive.transport.bus.supply_v = 9.0
    last = drive.ask(drive.start, 2.0)
    assert (last.outcome, last.rule) == (Outcome.STOP, Rule.VOLTAGE)
    assert "supply at 9.0 V, limit 9.6 V of nominally 12 V" in last.reason


def test_latched_overload_is_held_and_ends_with_the_next_goal():
    drive = Drive()
    drive.ask(drive.start, 0.2)
    drive.event("overload", 2)
    last = drive.ask(drive.start, 2.0)
    assert any(verdict.rule is Rule.SERVO_FAULT for verdict in drive.verdicts)
    assert last.outcome is Outcome.PASS


def test_fault_that_lasts_ends_in_a_stop_that_names_it():
    drive = Drive()
    drive.event("status", 2, int(StatusBit.ENCODER))
    last = drive.ask(drive.start, 2.0)
    assert last.outcome is Outcome.STOP
    assert last.reason == "elbow_flex: servo reports a broken encoder for longer than 0.3 s"
