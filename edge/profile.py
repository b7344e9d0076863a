"""Load a profile: a board, an arm and its cameras, as frozen records read once at start-up.

A profile names a board file (engine threads, how the policy is paced, what the machine is), an arm
file (joints and every limit the safety gate enforces) and cameras. Limits have no defaults anywhere
in the code: what a file does not state is an error that names the file, the key and the allowed
range.

    load_profile("sim")                 one that ships with the package
    load_profile("orin_nano_8gb_25w")   a shipped board, with an SO-101 and two cameras
    load_profile("my_robot.yaml")       your own; its `board` and `arm` may be paths beside it

Each of these files may say `based_on: NAME` and state only what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge.arm_file import arm_from_section
from edge.arm_profile import ArmProfile
from edge.board_profile import BoardProfile, board_from_section, shipped_boards
from edge.config_section import Section
from edge.ladder_profile import check_ladder
from edge.profile_files import ARM, BOARD, CAMERAS, PROFILE, beside, is_path, read_file, shipped

PORT_SIMULATED = "simulated"
PORT_GIVEN = "given"
SOURCE_FRAME_FILE = "frame_file"
SOURCE_V4L2 = "v4l2"
_ROBOT_OF_A_BOARD = "so101"  # has the arm and the cameras where only a board is named

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class CameraProfile:
    """One camera; `path` is a device, or a file name inside the simulator's frame folder."""

    name: str
    source: str
    path: str
    max_age_s: float
    width: int
    height: int
    fps: int


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything `molmoact-edge run` knows about the robot it drives."""

    name: str
    board: BoardProfile
    arm: ArmProfile
    port: str
    calibration: Path | None
    start_gate_deg: float
    cameras: tuple[CameraProfile, ...]


def load_profile(name_or_path: str | Path) -> Profile:
    """Load a shipped profile by name, or a file by its path (ending in .yaml); ProfileError.

    The name of a shipped board means that board with what profile `so101` has else.
    """
    section, folder = _robot(str(name_or_path))
    board = _part(section, BOARD, folder, board_from_section)
    arm = _part(section, ARM, folder, arm_from_section)
    port = section.text("port", (PORT_SIMULATED, PORT_GIVEN))
    calibration = section.optional_text("calibration")
    cameras = _cameras(section, folder, port)
    if port == PORT_SIMULATED and len({(c.width, c.height, c.fps) for c in cameras}) > 1:
        raise section.fail("cameras", "the simulator draws all in one width, height and fps")
    profile = Profile(
        name=section.text("name"),
        board=board,
        arm=arm,
        port=port,
        calibration=beside(calibration, folder) if calibration else None,
        start_gate_deg=section.number("start_gate_deg", 1.0, 360.0),
        cameras=cameras,
    )
    section.finish()
    check_ladder(profile)
    return profile


def shipped_profiles() -> list[str]:
    """Return the names of the shipped robots; `load_profile` knows those of boards as well."""
    return shipped(PROFILE)


def _robot(name: str) -> tuple[Section, Path | None]:
    if is_path(name) or name in shipped(PROFILE) or name not in shipped_boards():
        return read_file(name, PROFILE, None)
    robot, folder = read_file(_ROBOT_OF_A_BOARD, PROFILE, None)
    section = Section({"name": name, BOARD: name}, robot.file)
    section.fill_from(robot)
    return section, folder


def _cameras(section: Section, folder: Path | None, port: str) -> tuple[CameraProfile, ...]:
    """Read the list of cameras, or that of the camera set it names."""
    if not section.holds_text(CAMERAS):
        return _camera_list(section, port)
    return _part(section, CAMERAS, folder, lambda cameras: _camera_set(cameras, port))


def _camera_set(section: Section, port: str) -> tuple[CameraProfile, ...]:
    section.text("name")
    return _camera_list(section, port)


def _camera_list(section: Section, port: str) -> tuple[CameraProfile, ...]:
    cameras = tuple(_camera(camera, port) for camera in section.children(CAMERAS))
    section.refuse_twins(CAMERAS, [camera.name for camera in cameras])
    section.refuse_twins(CAMERAS, [camera.path for camera in cameras])
    return cameras


def _camera(section: Section, port: str) -> CameraProfile:
    name = section.text("name")
    source = section.text("source", (SOURCE_FRAME_FILE, SOURCE_V4L2))
    device = source == SOURCE_V4L2
    if not device and port != PORT_SIMULATED:
        raise section.fail("source", f"'{source}' needs 'port: {PORT_SIMULATED}'")
    camera = CameraProfile(
        name=name,
        source=source,
        path=section.text("device" if device else "file"),
        max_age_s=section.number("max_age_s", 0.02, 10.0),
        width=section.integer("width", 16, 8192),
        height=section.integer("height", 16, 8192),
        fps=section.integer("fps", 1, 240),
    )
    section.finish()
    return camera


def _part(
    section: Section, key: str, folder: Path | None, build: Callable[[Section], _Part]
) -> _Part:
    part_section, _ = read_file(section.text(key), key, folder)
    part = build(part_section)
    part_section.finish()
    return part
