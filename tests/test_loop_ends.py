"""However a loop ends: a still, soft arm, with the reason in the LoopEnd and in the black box.

Servos are emulated in memory, on a clock that moves only when somebody waits.
"""

import dataclasses
import threading

import numpy as np
import pytest
from emulated_arm import IDS, LIMITS, memory_arm, torque_enables
from recorded_run import CARD, NAMES, PROFILE

from edge.black_box import BlackBox
from edge.box_file import BoxFile
from edge.box_reader import read_box
from edge.chunks import ChunkBuffer
from edge.joints import JointIoError
from edge.loop import ControlLoop
from edge.profile_record import record_from_profile
from edge.replay_gate import recorded_profile, rerun_gate
from edge.safety import SafetyGate
from firmware_bridge import registers
from firmware_bridge.emulator.faults import Event, ReplyFault
from firmware_bridge.errors import BusError

ARM = dataclasses.replace(
    PROFILE.arm, safety=dataclasses.replace(PROFILE.arm.safety, max_hold_s=0.8)
)
GATED = dataclasses.replace(PROFILE, arm=ARM)
FOLLOWED_S = 0.7
FAULT_TICK = 10
STILL_DEG = 1.5  # the servos have backlash


class Arm:
    """The driver with its errors as the loop knows them."""

    def __init__(self):
        self.driver, self.transport = memory_arm(limits=dataclasses.replace(LIMITS, ramp_s=0.2))
        self.clock = self.transport.clock
        self.script = lambda tick: None
        self.n_reads = 0

    def read(self, deadline_s=None):
        self.script(self.n_reads)
        self.n_reads += 1
        try:
            return self.driver.read(deadline_s)
        except BusError as error:
            raise JointIoError(str(error)) from error

    def write(self, positions):
        try:
            self.driver.write_goals(positions)
        except BusError as error:
            raise JointIoError(str(error)) from error

    def soft_stop(self):
        report = self.driver.soft_stop()
        if report.unconfirmed_ids:
            raise JointIoError(f"servos {report.unconfirmed_ids} did not confirm torque off")

    def inject(self, *arguments, **options):
        self.transport.bus.inject(Event(*arguments, **options))


class Camera:
    """Takes a frame every 100 ms until `died_s`."""

    def __init__(self, clock):
        self.clock = clock
        self.died_s = float("inf")

    def newest_s(self):
        return min(self.clock() // 0.1 * 0.1, self.died_s)


class Feed:
    """The policy's thread as the loop sees it; `script` runs at each measurement."""

    trouble = fault = None
    calls = ()

    def observe(self, positions, t_s):
        pass


class Rig:
    """An armed arm that follows one chunk of FOLLOWED_S seconds; `script` runs in every tick."""

    def __init__(self, tmp_path, script=lambda tick, rig: None):
        self.arm = Arm()
        self.arm.script = lambda tick: script(tick, self)
        clock = self.arm.clock
        self.path = tmp_path / "run.box"
        self.box = BlackBox(2000, NAMES, 2)
        self.box.seal_card({**CARD, "profile_values": record_from_profile(GATED)})
        self.feed = Feed()
        self.cameras = [Camera(clock), Camera(clock)]
        self.chunks = ChunkBuffer(6, ARM.action_hz, 0.0, 30.0)
        self.loop = ControlLoop(
            self.arm,
            self.chunks,
            SafetyGate(GATED),
            self.feed,
            self.cameras,
            self.box,
            ARM,
            clock=clock,
            wait_until=lambda deadline_s: self.arm.transport.sleep(deadline_s - clock()),
        )

    def run(self, seconds=30.0, followed_s=FOLLOWED_S):
        """Drive; return (the end, the box as it is read back from its file)."""
        self.arm.driver.arm()
        start = self.arm.driver.read().positions
        n_actions = int(followed_s * ARM.action_hz)
        way = 1.0 - np.cos(np.arange(n_actions)[:, None] / 12.0)
        now_s = self.arm.clock()
        self.chunks.put(start + way * np.array([4.0, 2.0, -2.0, 4.0, 4.0, 2.0]), now_s, now_s)
        end = self.loop.run(seconds, threading.Event())
        BoxFile(self.path, self.box.layout.total_bytes).write(self.box)
        box = read_box(self.path)
        assert box.view.text("reason") == end.reason
        return end, box

    def is_soft(self):
        limits = [servo.value(registers.TORQUE_LIMIT) for servo in self.arm.transport.bus.servos]
        return torque_enables(self.arm.transport) == limits == [0] * len(IDS)


def motion_deg(box, last_s):
    """How far any joint moved in the last seconds before the end."""
    ticks = box.view.columns()
    present = ticks["present"][ticks["t_s"] > ticks["t_s"][-1] - last_s]
    return np.ptp(present, axis=0).max()


def last_events(box):
    return [text for _, _, text in box.view.events()]


def test_hung_policy(tmp_path):
    """A call that never returns: its last chunk runs out, and nobody says why."""
    rig = Rig(tmp_path)
    end, box = rig.run()
    assert end.how == "stop"
    assert end.reason == "held for 0.8 s, limit 0.8: no action chunk"
    assert motion_deg(box, 0.5) < STILL_DEG
    assert rig.is_soft()


def test_failed_policy(tmp_path):
    def fail(tick, rig):
        if tick == FAULT_TICK:
            rig.feed.fault = "policy failed: out of memory"

    rig = Rig(tmp_path, fail)
    end, box = rig.run()
    assert end.reason == "policy failed: out of memory"
    assert motion_deg(box, 0.3) < STILL_DEG
    assert rig.is_soft()


def test_dead_camera(tmp_path):
    def die(tick, rig):
        if tick == FAULT_TICK:
            rig.cameras[1].died_s = rig.arm.clock()

    rig = Rig(tmp_path, die)
    end, box = rig.run(followed_s=20.0)
    assert end.reason.startswith("held for 0.8 s, limit 0.8: camera wrist: newest picture is ")
    assert motion_deg(box, 0.5) < STILL_DEG
    assert rig.is_soft()


def test_hot_servo(tmp_path):
    rig = Rig(
        tmp_path,
        lambda tick, rig: (
            tick == FAULT_TICK and rig.arm.inject("hot", ids=frozenset({3}), value=68.0)
        ),
    )
    end, _ = rig.run(followed_s=20.0)
    assert end.how == "stop"
    assert "elbow_flex: servo at 68 C, limit 6" in end.reason
    assert rig.is_soft()


def test_plug_that_comes_back_in_time(tmp_path):
    rig = Rig(
        tmp_path,
        lambda tick, rig: tick == FAULT_TICK and rig.arm.inject("unplug", duration_s=1.0),
    )
    end, box = rig.run(followed_s=20.0)
    assert end.how == "stop"
    assert "port lost" in end.reason
    assert end.soft_stop_error is None
    assert any(text.startswith("read failed: memory: port lost") for text in last_events(box))
    assert rig.is_soft()


def test_plug_that_stays_out_is_said_to_leave_torque_on(tmp_path):
    rig = Rig(
        tmp_path,
        lambda tick, rig: tick == FAULT_TICK and rig.arm.inject("unplug", duration_s=1000.0),
    )
    end, box = rig.run(followed_s=20.0)
    assert "port lost" in end.reason
    assert "(1, 2, 3, 4, 5, 6) did not confirm torque off" in end.soft_stop_error
    assert box.view.text("soft_stop_error") == end.soft_stop_error


def test_power_that_fails_for_a_moment(tmp_path):
    rig = Rig(
        tmp_path,
        lambda tick, rig: tick == FAULT_TICK and rig.arm.inject("brown_out", duration_s=0.5),
    )
    end, _ = rig.run(followed_s=20.0)
    assert end.how == "stop"
    assert rig.is_soft()


def test_servo_that_falls_silent(tmp_path):
    def fall_silent(tick, rig):
        if tick == FAULT_TICK:
            rig.arm.transport.bus.inject(ReplyFault("drop", ids=frozenset({3})))

    rig = Rig(tmp_path, fall_silent)
    end, _ = rig.run(followed_s=20.0)
    assert "servo 3" in end.reason
    assert "(3,) did not confirm torque off" in end.soft_stop_error
    assert rig.is_soft()


def test_servo_that_reports_a_fault(tmp_path):
    rig = Rig(
        tmp_path,
        lambda tick, rig: (
            tick == FAULT_TICK and rig.arm.inject("status", ids=frozenset({2}), value=4)
        ),
    )
    end, _ = rig.run(followed_s=20.0)
    assert end.reason.startswith("shoulder_lift: servo reports too much heat for longer than")
    assert rig.is_soft()


def test_bug_in_the_loop(tmp_path):
    def break_code(tick, rig):
        if tick == FAULT_TICK:
            raise ZeroDivisionError("a bug")

    rig = Rig(tmp_path, break_code)
    with pytest.raises(ZeroDivisionError):
        rig.run()
    assert rig.box.text("reason") == "the control loop failed: ZeroDivisionError: a bug"
    assert rig.is_soft()


def test_the_gate_says_the_same_of_the_recorded_fault(tmp_path):
    rig = Rig(
        tmp_path,
        lambda tick, rig: tick == FAULT_TICK and rig.arm.inject("hot", ids=frozenset({3})),
    )
    _, box = rig.run(followed_s=20.0)
    result = rerun_gate(box, recorded_profile(box))
    assert result["verdicts"]["stop"] == 1
    assert result["differences"] == []
