"""The control loop between fakes, on a clock that moves only when somebody waits."""

import threading

import numpy as np
from readings import reading_of
from recorded_run import Clock

from edge.black_box import BlackBox
from edge.chunks import ChunkBuffer
from edge.loop import ControlLoop
from edge.profile import load_profile
from edge.safety import SafetyGate

PROFILE = load_profile("sim")
ARM = PROFILE.arm
NAMES = tuple(joint.name for joint in ARM.joints)
HOME = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])
PERIOD_S = 1.0 / ARM.control_hz


class FakeArm:
    """An arm that goes where it is told at once; `script` runs before each read."""

    def __init__(self, clock, script=lambda tick, arm: None):
        self.clock = clock
        self.script = script
        self.positions = HOME.copy()
        self.n_reads = 0
        self.written = []
        self.soft_stops = 0

    def read(self, deadline_s=None):
        self.deadline_s = deadline_s
        tick = self.n_reads
        self.n_reads += 1
        self.clock.now_s += 0.002
        self.script(tick, self)
        return reading_of(self.positions, self.clock.now_s)

    def write(self, positions):
        self.clock.now_s += 0.001
        self.positions = positions.copy()
        self.written.append((self.clock.now_s, positions.copy()))

    def soft_stop(self):
        self.soft_stops += 1


class FakeFeed:
    def __init__(self):
        self.trouble = None
        self.fault = None
        self.calls = []
        self.observed = []

    def observe(self, positions, t_s):
        self.observed.append((positions.copy(), t_s))


class FakeCamera:
    """Took its newest frame a fixed time ago, or at a fixed moment."""

    def __init__(self, clock, age_s=0.05):
        self.clock = clock
        self.age_s = age_s
        self.died_s = None

    def newest_s(self):
        return self.clock.now_s - self.age_s if self.died_s is None else self.died_s


class Rig:
    def __init__(self, script=lambda tick, rig: None):
        self.clock = Clock()
        self.stop = threading.Event()
        self.arm = FakeArm(self.clock, lambda tick, arm: script(tick, self))
        self.feed = FakeFeed()
        self.chunks = ChunkBuffer(6, ARM.action_hz, 0.0, 10.0)
        self.cameras = [FakeCamera(self.clock), FakeCamera(self.clock, 0.07)]
        self.box = BlackBox(1000, NAMES, 2)
        self.loop = ControlLoop(
            self.arm,
            self.chunks,
            SafetyGate(PROFILE),
            self.feed,
            self.cameras,
            self.box,
            ARM,
            clock=self.clock,
            wait_until=self.clock.wait_until,
        )

    def chunk(self, goal=HOME, n_actions=1000):
        now_s = self.clock.now_s
        self.chunks.put(np.tile(goal, (n_actions, 1)), now_s, now_s)

    def run(self, seconds=1.0):
        return self.loop.run(seconds, self.stop)


class Forgetful:
    """A list that keeps nothing."""

    def append(self, item):
        pass
