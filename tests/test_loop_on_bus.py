"""The control loop on real serial bytes: emulated servos in a process of their own, with faults."""

import dataclasses
import threading
import time
from contextlib import closing

import numpy as np
from emulated_arm import emulator_process

from edge.black_box import BlackBox
from edge.chunks import ChunkBuffer
from edge.cli import open_servo_arm
from edge.loop import ControlLoop
from edge.profile import load_profile
from edge.safety import Outcome, SafetyGate
from firmware_bridge import registers
from firmware_bridge.calibration import save_calibration
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.errors import BusError

PROFILE = load_profile("sim")
SHIPPED = PROFILE.arm
ARM = dataclasses.replace(
    SHIPPED,
    arming=dataclasses.replace(SHIPPED.arming, ramp_s=0.2),
    watchdog=dataclasses.replace(SHIPPED.watchdog, replug_s=0.5),
)
GATED = dataclasses.replace(PROFILE, arm=ARM, start_gate_deg=15.0, cameras=())


class Feed:
    """A policy that only watches, and may do something at a tick."""

    def __init__(self, at_tick=None, do=None):
        self.trouble = self.fault = None
        self.calls = []
        self.at_tick, self.do = at_tick, do
        self.seen = 0

    def observe(self, positions, t_s):
        self.seen += 1
        if self.seen == self.at_tick:
            self.do()


def torque_enable(arm, servo_id):
    try:
        return arm._arm.bus.read(servo_id, registers.TORQUE_ENABLE)
    except BusError:
        return None


def drive(tmp_path, seconds, *emulator_arguments, feed=None, offset_deg=6.0):
    """Arm emulated servos and follow one chunk that turns the shoulder: (end, log, torque)."""
    save_calibration(default_calibration(), tmp_path / "calibration.json")
    with (
        emulator_process(tmp_path / "port", *emulator_arguments) as process,
        closing(open_servo_arm(str(tmp_path / "port"), tmp_path / "calibration.json", ARM)) as arm,
    ):
        start = arm.read().positions
        goal = start + np.array([offset_deg, 0.0, 0.0, 0.0, 0.0, 0.0])
        chunks = ChunkBuffer(6, ARM.action_hz, 0.0, 30.0)
        feed = feed or Feed()
        feed.process = process
        log = BlackBox(1000, tuple(joint.name for joint in ARM.joints), 0)
        loop = ControlLoop(arm, chunks, SafetyGate(GATED), feed, [], log, ARM)
        arm.give_torque()
        now_s = time.monotonic()
        chunks.put(np.tile(goal, (1000, 1)), now_s, now_s)
        end = loop.run(seconds, threading.Event())
        torque = [torque_enable(arm, servo_id) for servo_id in range(1, 7)]
    return end, log, torque


def test_chunk_is_followed_and_every_servo_ends_without_torque(tmp_path):
    end, log, torque = drive(tmp_path, 1.5)
    assert (end.how, end.soft_stop_error) == ("time", None)
    assert torque == [0] * 6
    present = log.columns()["present"]
    assert present[-1, 0] - present[0, 0] > 3.0
    np.testing.assert_allclose(present[-1, 1:], present[0, 1:], atol=2.0)
    assert log.outcome_counts[Outcome.HOLD] == 0


def test_goals_stay_within_the_limits_of_the_profile_on_the_wire(tmp_path):
    end, log, _ = drive(tmp_path, 1.5, offset_deg=14.9)
    assert end.how == "time"
    ticks = log.columns()
    lead = np.abs(ticks["written"] - ticks["present"])
    assert np.all(lead <= np.array([joint.max_lead for joint in ARM.joints]) + 1e-9)
    speed = np.abs(np.diff(ticks["written"], axis=0)) / np.diff(ticks["t_s"])[:, None]
    assert speed[:, 0].max() <= ARM.joints[0].max_velocity * 1.5  # the clock of a tick jitters
    assert log.outcome_counts[Outcome.CLAMP] > 0


def test_run_survives_lost_and_damaged_replies(tmp_path):
    (tmp_path / "faults.yaml").write_text(
        "seed: 3\n"
        "replies:\n"
        "  - {kind: drop, probability: 0.02, after: 300}\n"
        "  - {kind: corrupt, probability: 0.02, after: 300}\n"
    )
    end, log, _ = drive(tmp_path, 3.0, "--faults", str(tmp_path / "faults.yaml"))
    assert end.how == "time"
    assert log.outcome_counts[Outcome.STOP] == 0


def test_unplugged_bus_stops_the_run_and_says_so(tmp_path):
    def unplug():
        feed.process.kill()
        feed.process.wait()
        (tmp_path / "port").unlink()  # the system may give its number to somebody else's port

    feed = Feed(at_tick=10, do=unplug)
    end, log, _ = drive(tmp_path, 10.0, feed=feed)
    assert end.how == "stop"
    assert str(tmp_path / "port") in end.reason
    assert "did not confirm torque off" in end.soft_stop_error
    assert log.n_ticks < 40


def test_servo_that_falls_silent_stops_the_run_and_is_named(tmp_path):
    (tmp_path / "faults.yaml").write_text("replies:\n  - {kind: drop, ids: [3], after: 120}\n")
    end, log, torque = drive(tmp_path, 10.0, "--faults", str(tmp_path / "faults.yaml"))
    assert end.how == "stop"
    assert "servo 3" in end.reason
    assert "servo 3 did not confirm" in end.soft_stop_error
    assert torque == [0, 0, None, 0, 0, 0]
    assert log.outcome_counts[Outcome.HOLD] > 0
