"""Load a profile: a board, an arm and its cameras, as frozen records read once at start-up.

A profile names a board file (engine threads, how the policy is paced) and an arm file (joints and
every limit the safety gate enforces). Limits have no defaults anywhere in the code: what a file
does not state is an error that names the file, the key and the allowed range.

    load_profile("sim")                 one that ships with the package
    load_profile("my_robot.yaml")       your own; its `board` and `arm` may be paths beside it

A board or arm file may say `based_on: NAME` and state only what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

from edge.arm_file import arm_from_section
from edge.arm_profile import ArmProfile
from edge.config_section import ProfileError, Section, section_from_yaml
from edge.hardware import Hardware, hardware_from_section
from edge.ladder_profile import LadderProfile, check_ladder, read_ladder

MEASURED = "measured"
PORT_SIMULATED = "simulated"
PORT_GIVEN = "given"
SOURCE_FRAME_FILE = "frame_file"
SOURCE_V4L2 = "v4l2"

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class RealTimeProfile:
    """What the control thread asks of the operating system; refusals are reported, not fatal."""

    fifo_priority: int | None  # of SCHED_FIFO; None = ordinary scheduling
    cpus: tuple[int, ...] | None  # for the control thread alone; None = any
    lock_memory: bool  # keep what the process uses in memory


@dataclass(frozen=True, slots=True)
class BlackBoxProfile:
    """How much the recorder of ticks holds, and where its files lie."""

    seconds: float  # the newest ticks are kept, for so long
    keep: int  # files in the folder, this run's included
    folder: Path | None  # None = molmoact-edge under $XDG_STATE_HOME, or ~/.local/state


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """What the engine, the policy thread and the control thread may use of the machine."""

    name: str
    threads: int | None  # engine threads; None = one per core
    spinning: bool  # engine threads wait for work awake: sooner there, but the core is taken
    draft_window: int | str | None  # unsettled tokens a pass, or MEASURED; None = the whole span
    max_policy_hz: float  # the policy thread starts no call sooner than this after the last
    max_chunk_age_s: float  # actions predicted from an observation older than this are dropped
    bundle_mib: int | None  # memory there is for a bundle; None = not known
    real_time: RealTimeProfile
    black_box: BlackBoxProfile
    hardware: Hardware | None  # None: nothing is known of the machine
    ladder: LadderProfile | None  # None: nothing is given up under pressure


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
    """Load a shipped profile by name, or a file by its path (ending in .yaml); ProfileError."""
    text, file, folder = _read(str(name_or_path), "profile", "", None)
    section = section_from_yaml(text, file)
    board = _part(section, "board", "boards", folder, _board)
    arm = _part(section, "arm", "arms", folder, arm_from_section)
    port = section.text("port", (PORT_SIMULATED, PORT_GIVEN))
    calibration = section.optional_text("calibration")
    cameras = tuple(_camera(camera, port) for camera in section.children("cameras"))
    section.refuse_twins("cameras", [camera.name for camera in cameras])
    section.refuse_twins("cameras", [camera.path for camera in cameras])
    if port == PORT_SIMULATED and len({(c.width, c.height, c.fps) for c in cameras}) > 1:
        raise section.fail("cameras", "the simulator draws all in one width, height and fps")
    profile = Profile(
        name=section.text("name"),
        board=board,
        arm=arm,
        port=port,
        calibration=_beside(calibration, folder) if calibration else None,
        start_gate_deg=section.number("start_gate_deg", 1.0, 360.0),
        cameras=cameras,
    )
    section.finish()
    check_ladder(profile)
    return profile


def shipped_profiles() -> list[str]:
    """Return the names `load_profile` knows without a path."""
    return _shipped("")


def _board(section: Section) -> BoardProfile:
    hardware = section.optional_child("hardware")
    return BoardProfile(
        name=section.text("name"),
        threads=section.optional_integer("threads", 1, 256),
        spinning=section.boolean("spinning"),
        draft_window=section.integer_or("draft_window", 1, 4096, MEASURED),
        max_policy_hz=section.number("max_policy_hz", 0.01, 200.0),
        max_chunk_age_s=section.number("max_chunk_age_s", 0.05, 120.0),
        bundle_mib=section.optional_integer("bundle_mib", 1, 1 << 20),
        real_time=_real_time(section.child("real_time")),
        black_box=_black_box(section.child("black_box")),
        hardware=None if hardware is None else hardware_from_section(hardware),
        ladder=read_ladder(section),
    )


def _real_time(section: Section) -> RealTimeProfile:
    settings = RealTimeProfile(
        fifo_priority=section.optional_integer("fifo_priority", 1, 98),
        cpus=section.optional_integers("cpus", 0, 1023),
        lock_memory=section.boolean("lock_memory"),
    )
    section.finish()
    return settings


def _black_box(section: Section) -> BlackBoxProfile:
    folder = section.optional_text("folder")
    settings = BlackBoxProfile(
        seconds=section.number("seconds", 10.0, 7200.0),
        keep=section.integer("keep", 1, 10_000),
        folder=None if folder is None else Path(folder).expanduser(),
    )
    if settings.folder is not None and not settings.folder.is_absolute():
        raise section.fail("folder", f"'{folder}'; allowed: an absolute path, or null")
    section.finish()
    return settings


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
    section: Section,
    key: str,
    shipped_folder: str,
    folder: Path | None,
    build: Callable[[Section], _Part],
) -> _Part:
    part_section = _with_bases(section.text(key), key, shipped_folder, folder, [])
    part = build(part_section)
    part_section.finish()
    return part


def _with_bases(
    name: str, kind: str, shipped_folder: str, folder: Path | None, above: list[str]
) -> Section:
    """Read a board or arm file and, for what it does not state, the files it is based on."""
    text, file, beside = _read(name, kind, shipped_folder, folder)
    section = section_from_yaml(text, file)
    base = section.base()
    if base is not None:
        if file in above:
            raise section.fail("based_on", f"'{base}' leads back to this file; remove one")
        section.fill_from(_with_bases(base, kind, shipped_folder, beside, [*above, file]))
    return section


def _read(name: str, kind: str, shipped_folder: str, folder: Path | None) -> tuple:
    """Return (text, the name errors show, the folder the file lies in or None when shipped)."""
    if not (name.endswith((".yaml", ".yml")) or "/" in name):
        names = _shipped(shipped_folder)
        if name not in names:
            raise ProfileError(
                f"no {kind} named '{name}'; shipped: {', '.join(names)}; or give a .yaml path"
            )
        parts = [part for part in (shipped_folder, f"{name}.yaml") if part]
        source = resources.files("profiles").joinpath(*parts)
        return source.read_text("utf-8"), "/".join(["profiles", *parts]), None
    path = _beside(name, folder)
    try:
        return path.read_text("utf-8"), str(path), path.parent
    except OSError as error:
        raise ProfileError(f"{path}: cannot read the {kind}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: cannot read the {kind}: it is not UTF-8 text") from error


def _shipped(shipped_folder: str) -> list[str]:
    root = resources.files("profiles")
    root = root.joinpath(shipped_folder) if shipped_folder else root
    return sorted(
        entry.name.removesuffix(".yaml") for entry in root.iterdir() if entry.name.endswith(".yaml")
    )


def _beside(name: str, folder: Path | None) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() or folder is None else folder / path
