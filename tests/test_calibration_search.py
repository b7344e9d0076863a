import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.calibration import CalibrationError, save_calibration
from firmware_bridge.calibration_search import (
    find_calibration,
    lerobot_calibration_path,
    robots_folder,
)
from firmware_bridge.emulator.defaults import default_calibration

ENVIRONMENTS = [
    ({}, "~/.cache/huggingface/lerobot/calibration"),
    ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/lerobot/calibration"),
    ({"HF_HOME": "/h"}, "/h/lerobot/calibration"),
    ({"HF_HOME": "/h", "HF_LEROBOT_HOME": "/l"}, "/l/calibration"),
    ({"HF_LEROBOT_HOME": "/l", "HF_LEROBOT_CALIBRATION": "~/c"}, "~/c"),
]


@pytest.fixture
def environment(tmp_path):
    return {"HF_LEROBOT_CALIBRATION": str(tmp_path)}


def put(tmp_path, folder, name="mine", *, gripper_min=None):
    calibration = dict(default_calibration())
    if gripper_min is not None:
        calibration["gripper"] = replace(calibration["gripper"], range_min=gripper_min)
    path = tmp_path / "robots" / folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_calibration(calibration, path)
    return path


@pytest.mark.parametrize(("variables", "expected"), ENVIRONMENTS)
def test_folder_follows_the_variables_that_lerobot_follows(variables, expected):
    assert robots_folder(variables) == Path(expected).expanduser() / "robots"


def test_folder_is_that_of_lerobot():
    pytest.importorskip("lerobot.utils.constants")
    script = (
        "import json, sys, importlib, os\n"
        "import huggingface_hub.constants as hub, lerobot.utils.constants as constants\n"
        "for variables in json.loads(sys.argv[1]):\n"
        "    for name in ('XDG_CACHE_HOME', 'HF_HOME', 'HF_LEROBOT_HOME',"
        " 'HF_LEROBOT_CALIBRATION'):\n"
        "        os.environ.pop(name, None)\n"
        "    os.environ.update(variables)\n"
        "    importlib.reload(hub); importlib.reload(constants)\n"
        "    print(constants.HF_LEROBOT_CALIBRATION / constants.ROBOTS)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, json.dumps([variables for variables, _ in ENVIRONMENTS])],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.split() == [str(robots_folder(variables)) for variables, _ in ENVIRONMENTS]


@pytest.mark.parametrize("folder", ["so_follower", "so101_follower", "so100_follower"])
def test_file_is_found_under_every_name_the_folder_has_had(tmp_path, environment, folder):
    path = put(tmp_path, folder)
    assert find_calibration("mine", environment) == path


def test_newest_folder_is_taken_when_files_agree(tmp_path, environment):
    put(tmp_path, "so100_follower")
    newer = put(tmp_path, "so101_follower")
    assert find_calibration("mine", environment) == newer
    newest = put(tmp_path, "so_follower")
    assert find_calibration("mine", environment) == newest
    assert lerobot_calibration_path("mine", environment) == newest


def test_files_that_differ_are_refused_with_both_paths(tmp_path, environment):
    newest = put(tmp_path, "so_follower")
    older = put(tmp_path, "so101_follower", gripper_min=1990)
    with pytest.raises(CalibrationError) as caught:
        find_calibration("mine", environment)
    assert str(caught.value) == (
        f"robot 'mine' has different calibrations in {newest} and {older}; give the path of the "
        "right one, or move the other away"
    )


def test_absent_file_names_every_place(tmp_path, environment):
    put(tmp_path, "so_follower", "other")
    with pytest.raises(CalibrationError) as caught:
        find_calibration("mine", environment)
    message = str(caught.value)
    assert message.startswith("no calibration of robot 'mine': looked at ")
    for folder in ("so_follower", "so101_follower", "so100_follower"):
        assert str(tmp_path / "robots" / folder / "mine.json") in message
    assert "\n" not in message


@pytest.mark.parametrize("robot_id", ["", "..", "a/b", "/etc/passwd"])
def test_id_that_is_no_file_name_is_refused(robot_id, environment):
    with pytest.raises(CalibrationError, match="is no file name; give the id that LeRobot"):
        find_calibration(robot_id, environment)
