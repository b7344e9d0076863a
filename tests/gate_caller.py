"""A safety gate for tests, asked with a fresh reading and fresh ages unless told otherwise."""

import dataclasses
import math
from importlib import resources

import numpy as np
from readings import reading_of

from edge.profile import load_profile
from edge.safety import SafetyGate, TickAges

PROFILE = load_profile("sim")
ARM = PROFILE.arm
NAMES = [joint.name for joint in ARM.joints]
N_JOINTS = len(NAMES)
PERIOD_S = 1.0 / ARM.control_hz
FRESH = TickAges(late_s=0.0, chunk_s=0.1, cameras_s=(0.1, 0.1))
# A pose with every joint far from its ends and every link far from the table and the others.
MIDDLE = np.array([(joint.low + joint.high) / 2 for joint in ARM.joints])
# Out of the way, for tests of one limit at a time.
FREE = {"max_velocity": 1e6, "max_acceleration": 1e12, "max_lead": 1e6}


class Caller:
    """A gate and the little that a test of it wants to say."""

    def __init__(self, profile):
        self.profile = profile
        self.gate = SafetyGate(profile)

    def check(self, goal, present, now_s, measured_s=None, missing="no action chunk", **changes):
        ages = changes.pop("ages", FRESH)
        reading = reading_of(present, now_s if measured_s is None else measured_s, **changes)
        return self.gate.check(goal, reading, now_s, ages, missing)


def profile_with(start_gate_deg=math.inf, arm=None, **joint_limits):
    """The shipped profile with other values for every joint, and other parts of its arm."""
    joints = tuple(dataclasses.replace(joint, **joint_limits) for joint in ARM.joints)
    changed = dataclasses.replace(ARM, joints=joints, **(arm or {}))
    return dataclasses.replace(PROFILE, arm=changed, start_gate_deg=start_gate_deg)


def gate(start_gate_deg=math.inf, arm=None, **joint_limits):
    return Caller(profile_with(start_gate_deg, arm, **joint_limits))


def started_gate(base=MIDDLE, arm=None, **joint_limits):
    """A gate that stands at `base` since time 0 and has passed its start."""
    caller = gate(arm=arm, **joint_limits)
    assert caller.check(base, base, 0.0).reason == ""
    return caller


def two_arm_profile(folder):
    """The simulator's profile with the shipped pair of arms, by way of a file in `folder`."""
    text = resources.files("profiles").joinpath("sim.yaml").read_text("utf-8")
    path = folder / "pair.yaml"
    path.write_text(text.replace("arm: so101\n", "arm: so101_bimanual\n"))
    return load_profile(path)


def only(joint, value, base=MIDDLE):
    goal = base.copy()
    goal[joint] = value
    return goal
