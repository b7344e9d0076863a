"""A short run of the control loop on a fake clock, into a black box."""

import dataclasses
import threading

import numpy as np
from readings import reading_of

from edge.black_box import BlackBox
from edge.chunks import ChunkBuffer
from edge.joints import JointIoError
from edge.loop import ControlLoop
from edge.profile import load_profile
from edge.profile_record import record_from_profile
from edge.safety import SafetyGate

PROFILE = load_profile("sim")
NAMES = tuple(joint.name for joint in PROFILE.arm.joints)
HOME = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])
NO_FAULT = np.zeros(6, np.uint8)
CARD = {
    "started": "2026-01-01T12:00:00+00:00",
    "started_s": 1000.0,
    "machine": "a machine",
    "python": "3.12",
    "bundle": "bundle",
    "recipe": "int4",
    "profile": "sim",
    "board": "sim_host",
    "servos": "emulated",
    "task": "pick up the red cube",
    "depth": "off",
    "control_hz": PROFILE.arm.control_hz,
    "cameras": [camera.name for camera in PROFILE.cameras],
}


class Clock:
    """Time that moves only when the loop waits or a fake takes its time."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s

    def wait_until(self, deadline_s):
        self.now_s = max(self.now_s, deadline_s)


class Camera:
    """Took its newest frame 50 ms ago, or at a fixed moment."""

    def __init__(self, clock):
        self.clock = clock
        self.died_s = None

    def newest_s(self):
        return self.clock.now_s - 0.05 if self.died_s is None else self.died_s


class Arm:
    """Follows its goals with half of the way a tick; silent in the ticks of `lost`."""

    def __init__(self, clock, lost, status):
        self.clock, self.lost, self.status = clock, lost, status
        self.positions = HOME.copy()
        self.n_reads = 0

    def read(self, deadline_s=None):
        self.clock.now_s += 0.002
        self.n_reads += 1
        if self.n_reads in self.lost:
            raise JointIoError("servo 3: no reply in 5.0 ms")
        noise = 0.01 * np.sin(self.n_reads + np.arange(6))
        return reading_of(
            self.positions + noise,
            self.clock.now_s,
            currents_ma=np.full(6, 13.0 * self.n_reads),
            status=self.status,
        )

    def write(self, positions):
        self.clock.now_s += 0.001
        self.positions += 0.5 * (positions - self.positions)

    def soft_stop(self):
        pass


class Feed:
    trouble = fault = None
    calls = ()

    def observe(self, positions, t_s):
        pass


def record_run(seconds=3.0, capacity=1000, lost=(), profile=PROFILE, status=NO_FAULT):
    """Follow a swing of every joint for `seconds`, faster than the limits allow: the black box."""
    clock = Clock()
    box = BlackBox(capacity, NAMES, 2)
    box.seal_card({**CARD, "profile_values": record_from_profile(profile)})
    chunks = ChunkBuffer(6, profile.arm.action_hz, 0.0, 10.0)
    swing = np.sin(np.arange(60)[:, None] / 6.0) * np.array([40, 30, 30, 30, 60, 30.0])
    chunks.put(HOME + swing, clock(), clock())
    loop = ControlLoop(
        Arm(clock, lost, status),
        chunks,
        SafetyGate(profile),
        Feed(),
        [Camera(clock), Camera(clock)],
        box,
        profile.arm,
        clock=clock,
        wait_until=clock.wait_until,
    )
    loop.run(seconds, threading.Event())
    return box


def with_joints(profile, **changes):
    """The profile with the same change to every joint."""
    joints = tuple(dataclasses.replace(joint, **changes) for joint in profile.arm.joints)
    return dataclasses.replace(profile, arm=dataclasses.replace(profile.arm, joints=joints))
