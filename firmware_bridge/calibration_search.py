"""Finds the calibration file that LeRobot keeps for a robot, by the robot's id.

LeRobot looks in one folder, which environment variables may move, and there under the name of the
robot's class. That name changed when SO-100 and SO-101 became one class, after which LeRobot does
not find its own older files; here all three names are looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from firmware_bridge.calibration import CalibrationError, load_calibration

# Newest first.
FOLDERS = ("so_follower", "so101_follower", "so100_follower")


def robots_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder in which LeRobot keeps the calibrations of robots.

    It follows $HF_LEROBOT_CALIBRATION, $HF_LEROBOT_HOME and $HF_HOME as LeRobot does.
    """
    variables = os.environ if environment is None else environment
    cache = variables.get("XDG_CACHE_HOME", "~/.cache")
    hugging_face = variables.get("HF_HOME", f"{cache}/huggingface")
    lerobot = variables.get("HF_LEROBOT_HOME", f"{hugging_face}/lerobot")
    calibration = variables.get("HF_LEROBOT_CALIBRATION", f"{lerobot}/calibration")
    return Path(calibration).expanduser() / "robots"


def lerobot_calibration_path(robot_id: str, environment: Mapping[str, str] | None = None) -> Path:
    """Return where LeRobot of today reads and writes the calibration of `robot_id`.

    Raises CalibrationError for an id that is no file name.
    """
    if robot_id in ("", ".", "..") or "/" in robot_id or "\0" in robot_id:
        raise CalibrationError(
            f"robot id {robot_id!r} is no file name; give the id that LeRobot was told, or a path"
        )
    return robots_folder(environment) / FOLDERS[0] / f"{robot_id}.json"


def find_calibration(robot_id: str, environment: Mapping[str, str] | None = None) -> Path:
    """Return the calibration file of `robot_id`, of the newest folder that has one.

    Raises CalibrationError when there is none, naming every place, and when folders hold different
    calibrations: only one of them fits the servos, and this cannot know which.
    """
    newest = lerobot_calibration_path(robot_id, environment)
    places = [newest.parents[1] / folder / newest.name for folder in FOLDERS]
    found = [path for path in places if path.is_file()]
    if not found:
        looked = ", ".join(str(path) for path in places)
        raise CalibrationError(
            f"no calibration of robot {robot_id!r}: looked at {looked}; calibrate the arm with "
            "'molmoact-arm calibrate', or give the file's path"
        )
    first = load_calibration(found[0])
    for other in found[1:]:
        if load_calibration(other) != first:
            raise CalibrationError(
                f"robot {robot_id!r} has different calibrations in {found[0]} and {other}; give "
                "the path of the right one, or move the other away"
            )
    return found[0]
