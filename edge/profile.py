"""Load a profile: a board, an arm and its cameras, as frozen records read once at start-up.

A profile names a board file (engine threads, how the policy is paced) and an arm file (joints and
every limit the safety gate enforces). Limits have no defaults anywhere in the code: what a file
does not state is an error that names the file, the key and the allowed range.

    load_profile("sim")                 one that ships with the package
    load_profile("my_robot.yaml")       your own; its `board` and `arm` may be paths beside it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

from edge.config_section import ProfileError, Section, section_from_yaml

UNIT_SUFFIX = {"degrees": "deg", "percent": "percent"}
MEASURED = "measured"
PORT_SIMULATED = "simulated"
PORT_GIVEN = "given"
SOURCE_FRAME_FILE = "frame_file"
SOURCE_V4L2 = "v4l2"

# STS3215 at 7.4 V: 52 rpm without load (Feetech data sheet); nothing on this bus turns faster.
FASTEST_DEG_S = 312.0
# With the position gain LeRobot writes (P = 16), 17.4 degrees of error is 80 % duty, where the
# servo's overload protection starts counting; a lead above that could latch it.
LONGEST_LEAD_DEG = 17.4
PERCENT_PER_DEG = 100.0 / 110.0  # SO-101 gripper: 110 degrees of travel is 100 percent
# A watchdog that is quicker than this ends runs over a tick or two that came late.
LEAST_SILENT_PERIODS = 3

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
    real_time: RealTimeProfile
    black_box: BlackBoxProfile


@dataclass(frozen=True, slots=True)
class JointProfile:
    """One joint; positions in its own unit, degrees or percent of gripper opening."""

    name: str
    servo_id: int
    unit: str
    min_position: float
    max_position: float
    margin: float
    max_velocity: float  # unit per second
    max_lead: float  # goal minus present
    torque_limit_permille: int  # STS3215 register 48

    @property
    def low(self) -> float:
        """Lowest goal the gate lets through."""
        return self.min_position + self.margin

    @property
    def high(self) -> float:
        """Highest goal the gate lets through."""
        return self.max_position - self.margin


@dataclass(frozen=True, slots=True)
class SafetyTimes:
    """How long each thing may be missing before the gate holds, and before it stops."""

    hold_state_age_s: float
    stop_state_age_s: float
    max_hold_s: float
    fault_hold_s: float


@dataclass(frozen=True, slots=True)
class WatchdogTimes:
    """When the watchdog process takes the arm over from a program that is silent or gone."""

    hold_s: float  # silence on the bus after which it holds the arm
    soften_s: float  # silence after which it ends the program and lets the arm down
    slow_s: float  # silence allowed while torque comes and goes, and before the first tick
    replug_s: float  # how long it waits for a port that was unplugged


@dataclass(frozen=True, slots=True)
class ArmingLimits:
    """Under which conditions torque comes on, and how; enforced by the servo bus."""

    acceleration_deg_s2: float  # of the servos' own motion profile
    max_temperature_c: float
    max_motion_deg: float
    ramp_s: float


@dataclass(frozen=True, slots=True)
class RealTimeChunking:
    """How a new chunk is made to go on from the one that the arm follows; see `edge.commitment`."""

    hold_committed: bool
    soft_tail_s: float  # after the held actions, how long the old chunk still draws the new one


@dataclass(frozen=True, slots=True)
class ArmProfile:
    """Joints in bus order, rates, and the frame in which the checkpoint speaks of them."""

    name: str
    control_hz: float
    action_hz: float
    seam_blend_s: float
    real_time_chunking: RealTimeChunking
    signs: tuple[float, ...]
    offsets_deg: tuple[float, ...]
    safety: SafetyTimes
    watchdog: WatchdogTimes
    arming: ArmingLimits
    joints: tuple[JointProfile, ...]


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
    arm = _part(section, "arm", "arms", folder, _arm)
    port = section.text("port", (PORT_SIMULATED, PORT_GIVEN))
    calibration = section.optional_text("calibration")
    cameras = tuple(_camera(camera, port) for camera in section.children("cameras"))
    _refuse_twins(section, "cameras", [camera.name for camera in cameras])
    _refuse_twins(section, "cameras", [camera.path for camera in cameras])
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
    return profile


def shipped_profiles() -> list[str]:
    """Return the names `load_profile` knows without a path."""
    return _shipped("")


def _board(section: Section) -> BoardProfile:
    return BoardProfile(
        name=section.text("name"),
        threads=section.optional_integer("threads", 1, 256),
        spinning=section.boolean("spinning"),
        draft_window=section.integer_or("draft_window", 1, 4096, MEASURED),
        max_policy_hz=section.number("max_policy_hz", 0.01, 200.0),
        max_chunk_age_s=section.number("max_chunk_age_s", 0.05, 120.0),
        real_time=_real_time(section.child("real_time")),
        black_box=_black_box(section.child("black_box")),
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


def _arm(section: Section) -> ArmProfile:
    name = section.text("name")
    control_hz = section.number("control_hz", 1.0, 200.0)
    action_hz = section.number("action_hz", 1.0, 200.0)
    seam_blend_s = section.number("seam_blend_s", 0.0, 1.0)
    real_time_chunking = _real_time_chunking(section.child("real_time_chunking"))
    safety = _safety_times(section.child("safety"))
    watchdog = _watchdog(section.child("watchdog"), control_hz)
    arming = _arming(section.child("arming"))
    joint_sections = section.child("joints")
    joints = tuple(_joint(joint_sections.child(name), name) for name in joint_sections.names())
    if not joints:
        raise section.fail("joints", "no joint is listed; at least one is needed")
    _refuse_twins(section, "joints", [str(joint.servo_id) for joint in joints])
    frame = section.child("checkpoint_frame")
    signs = frame.numbers("signs", len(joints), -1.0, 1.0)
    offsets_deg = frame.numbers("offsets_deg", len(joints), -360.0, 360.0)
    if any(abs(sign) != 1.0 for sign in signs):
        raise frame.fail("signs", f"{list(signs)}; allowed: 1 or -1 for each joint")
    for joint, sign, offset in zip(joints, signs, offsets_deg, strict=True):
        if joint.unit == "percent" and (sign, offset) != (1.0, 0.0):
            raise frame.fail("signs", f"{joint.name} is in percent: sign 1 and offset 0 only")
    frame.finish()
    section.finish()
    return ArmProfile(
        name=name,
        control_hz=control_hz,
        action_hz=action_hz,
        seam_blend_s=seam_blend_s,
        real_time_chunking=real_time_chunking,
        signs=signs,
        offsets_deg=offsets_deg,
        safety=safety,
        watchdog=watchdog,
        arming=arming,
        joints=joints,
    )


def _real_time_chunking(section: Section) -> RealTimeChunking:
    chunking = RealTimeChunking(
        hold_committed=section.boolean("hold_committed"),
        soft_tail_s=section.number("soft_tail_s", 0.0, 5.0),
    )
    section.finish()
    return chunking


def _safety_times(section: Section) -> SafetyTimes:
    times = SafetyTimes(
        hold_state_age_s=section.number("hold_state_age_s", 0.01, 1.0),
        stop_state_age_s=section.number("stop_state_age_s", 0.02, 5.0),
        max_hold_s=section.number("max_hold_s", 0.1, 120.0),
        fault_hold_s=section.number("fault_hold_s", 0.0, 5.0),
    )
    if times.stop_state_age_s <= times.hold_state_age_s:
        raise section.fail(
            "stop_state_age_s",
            f"{times.stop_state_age_s:g}; allowed: above hold_state_age_s, "
            f"{times.hold_state_age_s:g}",
        )
    section.finish()
    return times


def _watchdog(section: Section, control_hz: float) -> WatchdogTimes:
    times = WatchdogTimes(
        hold_s=section.number("hold_s", 0.05, 5.0),
        soften_s=section.number("soften_s", 0.1, 10.0),
        slow_s=section.number("slow_s", 1.0, 10.0),
        replug_s=section.number("replug_s", 0.0, 120.0),
    )
    if times.hold_s < LEAST_SILENT_PERIODS / control_hz:
        raise section.fail(
            "hold_s",
            f"{times.hold_s:g}; allowed: at least {LEAST_SILENT_PERIODS} control periods, "
            f"{LEAST_SILENT_PERIODS / control_hz:.3g}",
        )
    if times.soften_s <= times.hold_s:
        raise section.fail(
            "soften_s", f"{times.soften_s:g}; allowed: above hold_s, {times.hold_s:g}"
        )
    section.finish()
    return times


def _arming(section: Section) -> ArmingLimits:
    limits = ArmingLimits(
        acceleration_deg_s2=section.number("acceleration_deg_s2", 10.0, 2232.0),
        max_temperature_c=section.number("max_temperature_c", 20.0, 70.0),
        max_motion_deg=section.number("max_motion_deg", 0.5, 10.0),
        ramp_s=section.number("ramp_s", 0.1, 10.0),
    )
    section.finish()
    return limits


def _joint(section: Section, name: str) -> JointProfile:
    unit = section.text("unit", tuple(UNIT_SUFFIX))
    suffix = UNIT_SUFFIX[unit]
    in_percent = unit == "percent"
    lowest, highest = (0.0, 100.0) if in_percent else (-360.0, 360.0)
    scale = PERCENT_PER_DEG if in_percent else 1.0
    joint = JointProfile(
        name=name,
        servo_id=section.integer("id", 0, 252),
        unit=unit,
        min_position=section.number(f"min_{suffix}", lowest, highest),
        max_position=section.number(f"max_{suffix}", lowest, highest),
        margin=section.number(f"margin_{suffix}", 0.0, 20.0),
        max_velocity=section.number(f"max_velocity_{suffix}_s", 0.1, FASTEST_DEG_S * scale),
        max_lead=section.number(f"max_lead_{suffix}", 0.1, LONGEST_LEAD_DEG * scale),
        torque_limit_permille=section.integer("torque_limit_permille", 10, 1000),
    )
    if joint.low >= joint.high:
        raise section.fail(
            f"max_{suffix}",
            f"{joint.max_position:g}; allowed: above min_{suffix} plus both margins, "
            f"{joint.min_position + 2 * joint.margin:g}",
        )
    section.finish()
    return joint


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
    text, file, _ = _read(section.text(key), key, shipped_folder, folder)
    part_section = section_from_yaml(text, file)
    part = build(part_section)
    part_section.finish()
    return part


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


def _refuse_twins(section: Section, key: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise section.fail(key, f"'{value}' is listed twice; each must differ")
