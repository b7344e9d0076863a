import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.calibration import (
    JOINTS,
    CalibrationError,
    MotorCalibration,
    calibration_text,
    load_calibration,
    position_from_ticks,
    save_calibration,
    ticks_from_position,
)
from firmware_bridge.emulator.defaults import default_calibration

motors = st.builds(
    lambda low, span, drive_mode: MotorCalibration(1, drive_mode, 0, low, low + span),
    low=st.integers(0, 2000),
    span=st.integers(1, 2095),
    drive_mode=st.integers(0, 1),
)


def written(tmp_path, change=lambda content: None):
    content = {joint: asdict(motor) for joint, motor in default_calibration().items()}
    change(content)
    path = tmp_path / "arm.json"
    path.write_text(json.dumps(content))
    return path


def lerobot_bus(calibration):
    feetech = pytest.importorskip("lerobot.motors.feetech")
    pytest.importorskip("scservo_sdk")
    motors_module = pytest.importorskip("lerobot.motors")
    modes = motors_module.MotorNormMode
    return feetech.FeetechMotorsBus(
        "nowhere",
        {
            joint: motors_module.Motor(
                motor.id,
                "sts3215",
                modes.RANGE_0_100 if joint == "gripper" else modes.DEGREES,
            )
            for joint, motor in calibration.items()
        },
        {
            joint: motors_module.MotorCalibration(**asdict(motor))
            for joint, motor in calibration.items()
        },
    )


def test_file_survives_a_round_trip_byte_for_byte(tmp_path):
    path = tmp_path / "arm.json"
    save_calibration(default_calibration(), path)
    assert calibration_text(load_calibration(path)) == path.read_text()


def test_file_has_the_bytes_that_lerobot_writes(tmp_path):
    draccus = pytest.importorskip("draccus")
    lerobot_motors = pytest.importorskip("lerobot.motors")
    calibration = default_calibration()
    path = tmp_path / "theirs.json"
    with open(path, "w") as file, draccus.config_type("json"):
        draccus.dump(
            {
                joint: lerobot_motors.MotorCalibration(**asdict(motor))
                for joint, motor in calibration.items()
            },
            file,
            indent=4,
        )
    assert path.read_text() == calibration_text(calibration)
    assert load_calibration(path) == calibration


def test_emulated_arm_has_zero_degrees_at_tick_2048():
    for joint, motor in default_calibration().items():
        if joint != "gripper":
            assert position_from_ticks(joint, motor, 2048) == 0.0


def test_ends_of_the_emulated_gripper_are_those_of_its_joint():
    motor = default_calibration()["gripper"]
    for percent, joint_deg in ((0, -10.0), (100, 100.0)):
        ticks = ticks_from_position("gripper", motor, percent)
        assert (ticks - 2048) * 360 / 4096 == pytest.approx(joint_deg, abs=0.05)


@pytest.mark.parametrize("joint", ["elbow_flex", "gripper"])
@given(motor=motors, share=st.floats(0, 1))
def test_ticks_survive_a_round_trip_within_one(joint, motor, share):
    ticks = round(motor.range_min + share * (motor.range_max - motor.range_min))
    back = ticks_from_position(joint, motor, position_from_ticks(joint, motor, ticks))
    assert abs(back - ticks) <= 1


def test_conversions_are_those_of_lerobot():
    calibration = {
        joint: MotorCalibration(index, index % 2, 0, 500 + 37 * index, 3100 + 101 * index)
        for index, joint in enumerate(JOINTS, start=1)
    }
    for drive_mode in (0, 1):
        gripper = calibration["gripper"]
        calibration["gripper"] = MotorCalibration(
            gripper.id, drive_mode, 0, gripper.range_min, gripper.range_max
        )
        bus = lerobot_bus(calibration)
        for joint, motor in calibration.items():
            for ticks in range(0, 4096, 7):
                theirs = bus._normalize({motor.id: ticks})[motor.id]
                assert position_from_ticks(joint, motor, ticks) == theirs
            for position in [value * 0.37 - 190.0 for value in range(1030)]:
                theirs = bus._unnormalize({motor.id: position})[motor.id]
                assert ticks_from_position(joint, motor, position) == theirs


def test_ticks_are_cut_towards_zero_as_lerobot_does():
    assert ticks_from_position("gripper", MotorCalibration(6, 0, 0, 2000, 3500), 50.0) == 2750
    assert ticks_from_position("elbow_flex", MotorCalibration(3, 0, 0, 800, 3300), 0.0) == 2050


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("gripper"), "joint gripper is missing; calibrate all six"),
        (lambda c: c.update(main_gripper={}), "unknown joint 'main_gripper'"),
        (lambda c: c["gripper"].pop("range_max"), "gripper must have exactly id, drive_mode"),
        (lambda c: c["gripper"].update(speed=1), "gripper must have exactly id, drive_mode"),
        (
            lambda c: c["wrist_roll"].update(homing_offset=2048),
            r"wrist_roll\.homing_offset is 2048, allowed is -2047\.\.2047",
        ),
        (lambda c: c["gripper"].update(range_min=1.5), r"gripper\.range_min is 1\.5"),
        (lambda c: c["gripper"].update(range_max=4096), r"range_max is 4096, allowed is 0\.\.4095"),
        (lambda c: c["gripper"].update(range_max=1934), "range_min 1934 is not below range_max"),
        (lambda c: c["gripper"].update(id=1), "two joints share an id"),
        (lambda c: c["gripper"].update(id=True), r"gripper\.id is True"),
    ],
)
def test_bad_file_is_named_with_its_key_in_one_line(tmp_path, change, message):
    path = written(tmp_path, change)
    with pytest.raises(CalibrationError, match=message) as caught:
        load_calibration(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must map the joints"),
        ('{"motor_names": ["gripper"], "drive_mode": [0]}', "from before June 2025, whose zero"),
    ],
)
def test_file_that_is_no_calibration_is_refused(tmp_path, text, message):
    path = tmp_path / "arm.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=message):
        load_calibration(path)


def test_absent_file_is_refused_with_the_place_to_look(tmp_path):
    with pytest.raises(CalibrationError, match=r"cannot be read .*huggingface/lerobot/calibration"):
        load_calibration(tmp_path / "none.json")


def test_another_calibration_is_never_overwritten(tmp_path):
    path = written(tmp_path, lambda c: c["gripper"].update(range_min=2000))
    before = path.read_text()
    with pytest.raises(CalibrationError, match="holds another calibration"):
        save_calibration(default_calibration(), path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
