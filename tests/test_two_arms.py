"""Two arms on two ports, driven as one robot, each with a watchdog of its own."""

import dataclasses
import subprocess
import sys
import time
from contextlib import closing, suppress

import numpy as np
import pytest
from emulated_arm import ROOT
from served_arm import PATIENCE_S, served_arm
from test_profile import ARM_TEXT, own_profile

from edge.cli import open_servo_arms
from edge.joints import JointIoError, StopRequested
from edge.profile import load_profile
from edge.run_options import RunError, check_options
from firmware_bridge.calibration import save_calibration
from firmware_bridge.emulator.defaults import default_calibration

SEAT = "  - name: {}\n    base_m: [0.0, {}, 0.0]\n    turned_deg: 0.0\n"
ONE = ARM_TEXT[ARM_TEXT.index("arms:\n") : ARM_TEXT.index("safety:\n")]
TWO = "arms:\n" + SEAT.format("left", 0.3) + SEAT.format("right", -0.3) + "\n"


@pytest.fixture
def profile(tmp_path):
    (tmp_path / "profile").mkdir()
    loaded = load_profile(own_profile(tmp_path / "profile", arm=ARM_TEXT.replace(ONE, TWO)))
    arming = dataclasses.replace(loaded.arm.arming, ramp_s=0.2)
    return dataclasses.replace(loaded, arm=dataclasses.replace(loaded.arm, arming=arming))


@pytest.fixture
def rig(tmp_path, profile):
    save_calibration(default_calibration(), tmp_path / "c.json")
    with served_arm(tmp_path / "left") as left, served_arm(tmp_path / "right") as right:
        yield left, right, [tmp_path / "c.json"] * 2


def drive(robot, goal):
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        with suppress(JointIoError):  # the loop bears a late reply too
            robot.write(goal)
            robot.read()
        time.sleep(0.03)


def test_both_arms_move_as_one_and_stop_when_either_is_told_to(rig, profile):
    left, right, calibrations = rig
    # Left open by a failure, the arms' watchdogs would end the program: these tests.
    with closing(open_servo_arms([left.port, right.port], calibrations, profile.arm)) as robot:
        start = robot.read().positions
        assert start.shape == (12,)
        robot.give_torque()
        assert all(left.torque() + right.torque())
        command = [sys.executable, "-m", "firmware_bridge.cli", "stop", "--port", right.port]
        stop = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        goal = start + np.array([3.0, *[0.0] * 11])
        with pytest.raises(StopRequested, match="right arm: stopped by 'molmoact-arm stop'"):
            drive(robot, goal)
        robot.soft_stop()
        assert left.is_limp()
        assert right.is_limp()
        assert "limp: servos 1 2 3 4 5 6\n" in stop.communicate(timeout=PATIENCE_S)[0]
    for port in (left.port, right.port):  # both are free again
        open_servo_arms([port], calibrations[:1], load_profile("sim").arm).close()


def test_second_arm_that_cannot_be_opened_gives_the_first_one_back(rig, profile):
    left, _, calibrations = rig
    with pytest.raises(JointIoError, match="no-port: no such port"):
        open_servo_arms([left.port, "no-port"], calibrations, profile.arm)
    open_servo_arms([left.port], calibrations[:1], load_profile("sim").arm).close()


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        (("a",), "--port was given 1 times, arm profile so101 needs it 2 times: left, right"),
        (("a", "a"), "--port a, a: one port twice; give each arm its own"),
    ],
)
def test_every_arm_needs_a_port_of_its_own(profile, ports, message):
    from run_rig import options

    real = dataclasses.replace(profile, port="given")
    with pytest.raises(RunError, match=message):
        check_options(options(ports=ports, calibrations=("l.json", "r.json")), real)
    with pytest.raises(RunError, match="arm profile so101 has 2 arms, the simulator has one"):
        check_options(options(), profile)
