import dataclasses
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from emulated_arm import emulator_process, wait_until

from edge.cli import open_servo_arm
from edge.joints import JointIoError
from edge.profile import load_profile
from firmware_bridge.calibration import save_calibration
from firmware_bridge.emulator.defaults import default_calibration

ARM = load_profile("so101").arm
QUICK = dataclasses.replace(
    ARM,
    arming=dataclasses.replace(ARM.arming, ramp_s=0.2),
    watchdog=dataclasses.replace(ARM.watchdog, replug_s=0.5),
)


def opened(tmp_path, calibration):
    """Open QUICK; closed whatever happens, so that no watchdog stays behind a failed test."""
    return closing(open_servo_arm(str(tmp_path / "port"), calibration, QUICK))


@pytest.fixture
def calibration(tmp_path):
    save_calibration(default_calibration(), tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def test_loop_moves_emulated_servos_and_leaves_them_soft(tmp_path, calibration):
    with emulator_process(tmp_path / "port"), opened(tmp_path, calibration) as arm:
        start = arm.read().positions
        arm.give_torque()
        goal = start + np.array([8.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        arm.write(goal)
        # A servo with P control only stops short of its goal, by friction over gain.
        assert wait_until(lambda: abs(arm.read().positions[0] - goal[0]) < 2.0)
        arm.soft_stop()
        with pytest.raises(JointIoError, match="arm without torque"):
            arm.write(goal)


def test_goal_before_torque_is_refused(tmp_path, calibration):
    with (
        emulator_process(tmp_path / "port"),
        opened(tmp_path, calibration) as arm,
        pytest.raises(JointIoError, match="arm without torque"),
    ):
        arm.write(np.zeros(6))


def test_servos_that_vanish_are_joint_io_errors(tmp_path, calibration):
    with emulator_process(tmp_path / "port") as process, opened(tmp_path, calibration) as arm:
        process.kill()
        process.wait()
        with pytest.raises(JointIoError):
            arm.read()
        with pytest.raises(JointIoError, match="did not confirm torque off"):
            arm.soft_stop()


def test_port_that_is_absent_or_taken_is_named(tmp_path, calibration):
    with pytest.raises(JointIoError, match="absent-port"):
        open_servo_arm(str(tmp_path / "absent-port"), calibration, ARM)
    with emulator_process(tmp_path / "port"), opened(tmp_path, calibration):
        with pytest.raises(JointIoError, match=str(tmp_path / "port")) as error:
            open_servo_arm(str(tmp_path / "port"), calibration, ARM)
        assert "\n" not in str(error.value)


def test_calibration_of_other_servos_is_refused(tmp_path, calibration):
    content = json.loads(calibration.read_text())
    content["wrist_roll"]["id"] = 9
    calibration.write_text(json.dumps(content))
    with pytest.raises(JointIoError, match="wrist_roll is servo 9, arm profile so101 says 5"):
        open_servo_arm("port", calibration, ARM)
    with pytest.raises(JointIoError, match=r"absent.json: cannot be read"):
        open_servo_arm("port", Path("absent.json"), ARM)


def test_profile_with_other_joints_is_refused(calibration):
    joints = tuple(reversed(ARM.joints))
    with pytest.raises(JointIoError, match="arm profile so101 lists gripper, wrist_roll"):
        open_servo_arm("port", calibration, dataclasses.replace(ARM, joints=joints))
