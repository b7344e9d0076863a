"""`molmoact-arm calibrate` as a person meets it: a terminal, and an arm pushed by hand."""

import json
import os
import signal
import time

import pytest
from at_terminal import at_terminal
from emulated_arm import emulator_process

from firmware_bridge.calibration import (
    JOINTS,
    MotorCalibration,
    load_calibration,
    save_calibration,
)
from firmware_bridge.cli import main
from firmware_bridge.emulator.defaults import default_calibration

# The emulator may have to wait for its share of a busy machine.
PATIENT = ("--reply-timeout-ms", "500")


class Hand:
    """Pushes the emulated joints through the faults file, which the emulator reads again."""

    def __init__(self, path):
        self.path = path
        self.push()

    def push(self, **torque_nm):
        events = [
            {"kind": "push", "ids": [JOINTS.index(joint) + 1], "value": value}
            for joint, value in torque_nm.items()
        ]
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"events": events}))
        os.replace(part, self.path)


@pytest.fixture
def arm(tmp_path):
    """Return (port, hand) of an emulated arm."""
    hand = Hand(tmp_path / "faults.json")
    link = tmp_path / "arm"
    with emulator_process(link, "--faults", str(hand.path)):
        yield str(link), hand


def sweep(hand, seconds=1.6):
    joints = [joint for joint in JOINTS if joint != "wrist_roll"]
    for torque_nm in (2.5, -2.5):
        hand.push(**dict.fromkeys(joints, torque_nm))
        time.sleep(seconds)


def test_a_guided_calibration_is_one_that_lerobot_takes(arm, tmp_path):
    port, hand = arm
    with at_terminal(
        "calibrate",
        *("--port", port, "--id", "mine", *PATIENT),
        HF_LEROBOT_CALIBRATION=str(tmp_path / "hub"),
    ) as terminal:
        terminal.expect("middle of its range")
        terminal.type()
        terminal.expect("press Enter when done")
        sweep(hand)
        terminal.type()
        terminal.expect("fold the arm")
        hand.push(shoulder_lift=-2.5, elbow_flex=2.5, gripper=-2.5)
        time.sleep(1.2)
        terminal.type()
        terminal.expect("write this to the servos and to")
        terminal.type("y")
        terminal.expect("calibrated:")
        assert terminal.end() == 0
    path = tmp_path / "hub" / "robots" / "so_follower" / "mine.json"
    ours = load_calibration(path)
    for joint, motor in default_calibration().items():
        span = ours[joint].range_max - ours[joint].range_min
        expected = 4095 if joint == "wrist_roll" else motor.range_max - motor.range_min
        assert span == pytest.approx(expected, abs=15), joint
    assert_lerobot_takes(port, path)


def assert_lerobot_takes(port, path):
    feetech = pytest.importorskip("lerobot.motors.feetech")
    motors = pytest.importorskip("lerobot.motors")
    stored = {
        joint: motors.MotorCalibration(**entry)
        for joint, entry in json.loads(path.read_text()).items()
    }
    named = {
        joint: motors.Motor(entry.id, "sts3215", motors.MotorNormMode.DEGREES)
        for joint, entry in stored.items()
    }
    bus = feetech.FeetechMotorsBus(port, named, calibration=stored)
    bus.connect()
    try:
        assert bus.is_calibrated
    finally:
        bus.disconnect()


@pytest.mark.parametrize("how", ["ctrl-c", "hangup"])
def test_leaving_in_the_middle_of_the_sweep_changes_nothing(arm, tmp_path, how):
    port, _ = arm
    path = tmp_path / "arm.json"
    with at_terminal("calibrate", "--port", port, "--calibration", str(path), *PATIENT) as terminal:
        terminal.expect("middle of its range")
        terminal.type()
        terminal.expect("press Enter when done")
        if how == "ctrl-c":
            terminal.press_ctrl_c()
        else:
            terminal.process.send_signal(signal.SIGHUP)
        terminal.expect("the servos' memory is as it was")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
    assert not path.exists()


def test_without_a_terminal_it_says_so(tmp_path, capsys):
    arguments = ["--port", "/dev/ttyNONE7", "--calibration", str(tmp_path / "arm.json")]
    assert main(["calibrate", *arguments]) == 2
    line = capsys.readouterr().err
    assert line == "molmoact-arm: error: calibrate asks questions; run it in a terminal\n"


def test_where_to_write_must_be_said(arm):
    with at_terminal("calibrate", "--port", arm[0]) as terminal:
        terminal.expect("say where the calibration is kept: --calibration FILE or --id NAME")
        assert terminal.end() == 2


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_an_id_that_is_a_path_is_refused(arm, name):
    with at_terminal("calibrate", "--port", arm[0], "--id", name) as terminal:
        terminal.expect("molmoact-arm: error: ")
        assert terminal.end() == 2


def test_a_calibration_by_name_is_applied_from_an_older_folder(arm, tmp_path):
    hub = tmp_path / "hub"
    old = hub / "robots" / "so101_follower" / "mine.json"
    old.parent.mkdir(parents=True)
    calibration = dict(default_calibration())
    calibration["wrist_roll"] = MotorCalibration(5, 0, 7, 0, 4095)
    save_calibration(calibration, old)
    with at_terminal(
        "calibrate",
        *("--port", arm[0], "--id", "mine", "--apply", *PATIENT),
        HF_LEROBOT_CALIBRATION=str(hub),
    ) as terminal:
        terminal.expect("write this to the servos? [y/N]")
        terminal.type("y")
        terminal.expect(f"the servos hold what {old} says")
        assert terminal.end() == 0
    assert main(["doctor", "--port", arm[0], "--calibration", str(old), *PATIENT]) == 0
