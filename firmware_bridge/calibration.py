"""LeRobot's calibration files, and the conversions between ticks and what a user sees.

A file maps each joint to its servo id, drive mode, homing offset and range in ticks. The five body
joints are in degrees from the middle of the range, at 360 degrees per 4095 ticks as LeRobot's
DEGREES mode has it; the gripper is in percent of its range (RANGE_0_100). Ticks are cut towards
zero, again as LeRobot does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from firmware_bridge.packets import MAX_SERVO_ID
from firmware_bridge.registers import TICKS_PER_TURN

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
GRIPPER = "gripper"
MAX_HOMING_OFFSET = 2047
MAX_TICK = TICKS_PER_TURN - 1
DEGREES_PER_TICK = 360.0 / MAX_TICK


class CalibrationError(ValueError):
    """A calibration file that cannot be used; names the file, the key and what is allowed."""


@dataclass(frozen=True, slots=True)
class MotorCalibration:
    """One joint of a calibration file, in ticks."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int


Calibration = Mapping[str, MotorCalibration]

_LIMITS = {
    "id": (0, MAX_SERVO_ID),
    "drive_mode": (0, 1),
    "homing_offset": (-MAX_HOMING_OFFSET, MAX_HOMING_OFFSET),
    "range_min": (0, MAX_TICK),
    "range_max": (0, MAX_TICK),
}


def load_calibration(path: Path) -> dict[str, MotorCalibration]:
    """Read and check a LeRobot calibration file of an SO-100/SO-101. Raises CalibrationError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path}: cannot be read ({_cause(error)}); LeRobot keeps calibrations in "
            "~/.cache/huggingface/lerobot/calibration/robots"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CalibrationError(f"{path}: must map the joints {', '.join(JOINTS)}")
    if "motor_names" in content:
        raise CalibrationError(
            f"{path}: is of a LeRobot from before June 2025, whose zero positions were others; "
            "calibrate the arm again"
        )
    for joint in content:
        if joint not in JOINTS:
            raise CalibrationError(
                f"{path}: unknown joint {joint!r}; known are {', '.join(JOINTS)}"
            )
    for joint in JOINTS:
        if joint not in content:
            raise CalibrationError(f"{path}: joint {joint} is missing; calibrate all six")
    calibration = {joint: _motor(path, joint, entry) for joint, entry in content.items()}
    ids = [motor.id for motor in calibration.values()]
    if len(set(ids)) != len(ids):
        raise CalibrationError(f"{path}: two joints share an id ({ids}); give each its own")
    return calibration


def calibration_text(calibration: Calibration) -> str:
    """Return the text of a calibration file, byte for byte what LeRobot writes."""
    return json.dumps({joint: asdict(motor) for joint, motor in calibration.items()}, indent=4)


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration file whole or not at all.

    Raises CalibrationError when another calibration is already there: it is never overwritten.
    """
    text = calibration_text(calibration)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists():
            if path.read_text(encoding="utf-8") == text:
                return
            raise CalibrationError(
                f"{path}: holds another calibration; move it away or choose another path"
            )
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CalibrationError(
            f"{path}: cannot be written ({error.strerror}); choose another path"
        ) from error


def position_from_ticks(joint: str, motor: MotorCalibration, ticks: int) -> float:
    """Return degrees from the middle of the range, or percent of it for the gripper."""
    if joint != GRIPPER:
        return (ticks - _middle(motor)) * 360 / MAX_TICK
    inside = min(motor.range_max, max(motor.range_min, ticks))
    percent = (inside - motor.range_min) / (motor.range_max - motor.range_min) * 100
    return 100 - percent if motor.drive_mode else percent


def ticks_from_position(joint: str, motor: MotorCalibration, position: float) -> int:
    """Return the tick of a position; it may lie outside the range for a body joint."""
    if joint != GRIPPER:
        return int(position * MAX_TICK / 360 + _middle(motor))
    percent = 100 - position if motor.drive_mode else position
    inside = min(100.0, max(0.0, percent))
    return int(inside / 100 * (motor.range_max - motor.range_min) + motor.range_min)


def velocity_from_ticks(joint: str, motor: MotorCalibration, ticks_s: float) -> float:
    """Return degrees per second, or percent per second for the gripper."""
    if joint != GRIPPER:
        return ticks_s * DEGREES_PER_TICK
    percent_s = ticks_s / (motor.range_max - motor.range_min) * 100
    return -percent_s if motor.drive_mode else percent_s


def _middle(motor: MotorCalibration) -> float:
    return (motor.range_min + motor.range_max) / 2


def _motor(path: Path, joint: str, entry: object) -> MotorCalibration:
    names = [field.name for field in fields(MotorCalibration)]
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise CalibrationError(f"{path}: {joint} must have exactly {', '.join(names)}")
    for name in names:
        value, (low, high) = entry[name], _LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise CalibrationError(f"{path}: {joint}.{name} is {value!r}, allowed is {low}..{high}")
    if entry["range_min"] >= entry["range_max"]:
        raise CalibrationError(
            f"{path}: {joint}.range_min {entry['range_min']} is not below range_max "
            f"{entry['range_max']}; calibrate the joint again"
        )
    return MotorCalibration(**entry)


def _cause(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
