"""Run a bundle on an arm: put profile, policy, cameras, arm and loop together, and take them apart.

Everything that can fail does so before the arm gets torque: bundle, profile, calibration, cameras
and one policy call for nothing. From then on every way out leads through the soft stop.
"""

from __future__ import annotations

import hashlib
import math
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.black_box import BlackBox, BlackBoxError
from edge.box_file import BoxFile, BoxHandover, box_path
from edge.box_layout import LINE_END
from edge.camera import close_cameras, open_cameras, wait_for_frames
from edge.chunks import ChunkBuffer
from edge.joints import JointIoError, JointReading
from edge.loop import END_STOP, ControlLoop, LoopEnd
from edge.manifest import MANIFEST_NAME
from edge.normalization import choose_tag
from edge.policy import Policy
from edge.policy_thread import PolicyCall, PolicyThread, Request
from edge.profile import PORT_SIMULATED, ArmProfile, Profile
from edge.profile_record import record_from_profile
from edge.real_time import leave_room, punctual
from edge.recording import Recorder
from edge.report import (
    SERVOS_EMULATED,
    SERVOS_REAL,
    ReportError,
    RunCard,
    build_report,
    machine_name,
    write_arrays,
    write_report,
)
from edge.run_options import TIMELINE_NAME, VIDEO_NAME, RunError, RunOptions, check_options
from edge.safety import SafetyGate
from edge.simulated_world import SimulatedWorld

FIRST_FRAME_S = 10.0
FIRST_READING_TRIES = 3
POLICY_END_S = 30.0
POLICY_END_SOON_S = 1.0
TASK_CHARACTERS = 2000  # of the task, in the black box
# SIGHUP too: the arm must not be left standing when the terminal or the SSH session goes away.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RobotArm(Protocol):
    """An arm on its bus; errors are JointIoError."""

    def read(self, deadline_s: float | None = None) -> JointReading:
        """Measure every joint, by `deadline_s` on time.monotonic at the latest."""
        ...

    def write(self, positions: np.ndarray) -> None:
        """Send one goal per joint."""
        ...

    def give_torque(self, box: BoxHandover | None = None) -> None:
        """Check the servos and bring torque up without moving; blocks for seconds.

        `box` lets a watchdog write the black box out when this process is gone.
        """
        ...

    def soft_stop(self) -> None:
        """Let the arm down, then torque off; blocks for seconds."""
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


OpenArm = Callable[[str, Path, ArmProfile], RobotArm]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How the loop ended, and everything measured."""

    end: LoopEnd
    signal_number: int | None
    report: dict[str, Any]
    fault_trace: str | None
    policy_hangs: bool  # its last call has not come back, and may never


@dataclass(frozen=True, slots=True)
class _ArmAccess:
    port: str
    calibration: Path
    frames_dir: Path | None


def run_robot(options: RunOptions, profile: Profile, open_arm: OpenArm, say: Say) -> RunResult:
    """Run until the time is over, a signal, or a safety stop; EdgeError when it cannot start.

    Before the arm has torque a signal ends the run as an exception, afterwards through the soft
    stop; the simulator is ended in every case.
    """
    check_options(options, profile)
    profile = replace(profile, board=leave_room(profile.board))
    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGHUP):
            stack.enter_context(_handling(number, lambda number, _: sys.exit(128 + number)))
        box, file = _black_box(options, profile, stack)
        say(f"opening {options.bundle}")
        policy = Policy.open(options.bundle, profile=profile)
        _check_fit(policy, options, profile)
        access, world = _arm_access(options, profile, stack, say)
        recorder = Recorder() if options.record else None
        end, thread, signals = _drive(
            options, profile, policy, access, open_arm, box, file, recorder, say
        )
        calls = tuple(thread.calls)
        summary = None
        if world is not None:
            if end.how == END_STOP and (problem := world.ended()):
                end = replace(end, reason=f"{end.reason}; {problem}")
            say("stopping the simulator")
            summary = world.stop()
        report = build_report(_card(options, profile, policy), end, box, calls, summary)
        report["black_box"] = str(file.path) if file.path.exists() else None
        _write_outputs(options, report, box, calls, recorder, say)
        return RunResult(
            end=end,
            signal_number=signals[0] if signals else None,
            report=report,
            fault_trace=thread.fault_trace,
            policy_hangs=not thread.stop(0.0),
        )


def _black_box(options: RunOptions, profile: Profile, stack: ExitStack) -> tuple[BlackBox, BoxFile]:
    """Take the memory for the recorder of ticks, and the room on disk that it is written to."""
    seconds = min(profile.board.black_box.seconds, options.seconds or math.inf)
    names = tuple(joint.name for joint in profile.arm.joints)
    capacity = math.ceil(seconds * profile.arm.control_hz) + 2
    box = BlackBox(capacity, names, len(profile.cameras))
    stack.callback(box.close)
    path = options.black_box or box_path(profile.board.black_box)
    file = BoxFile(path, box.layout.total_bytes)
    stack.callback(file.abandon)
    return box, file


def _check_fit(policy: Policy, options: RunOptions, profile: Profile) -> None:
    """Refuse a bundle that was made for other cameras or another arm, before anything starts."""
    tag = choose_tag(policy.bundle.tags, options.norm_tag)
    n_cameras, n_joints = len(profile.cameras), len(profile.arm.joints)
    if tag.cameras and len(tag.cameras) != n_cameras:
        raise RunError(
            f"profile {profile.name} has {n_cameras} cameras, norm tag {tag.name} of the bundle "
            f"needs {len(tag.cameras)}: {', '.join(tag.cameras)}; list as many in the profile"
        )
    for what, dim in (("actions", tag.action.dim), ("states", tag.state.dim)):
        if dim != n_joints:
            raise RunError(
                f"norm tag {tag.name} of the bundle has {what} of {dim} joints, arm "
                f"{profile.arm.name} has {n_joints}; use a bundle for this arm"
            )


def _drive(
    options: RunOptions,
    profile: Profile,
    policy: Policy,
    access: _ArmAccess,
    open_arm: OpenArm,
    box: BlackBox,
    file: BoxFile,
    recorder: Recorder | None,
    say: Say,
) -> tuple[LoopEnd, PolicyThread, list[int]]:
    """Open cameras and arm, run the loop, close them; the arm is limp afterwards."""
    with ExitStack() as stack:
        arm = open_arm(access.port, access.calibration, profile.arm)
        stack.callback(arm.close)
        _first_reading(arm)
        cameras = open_cameras(profile.cameras, access.frames_dir)
        stack.callback(close_cameras, cameras)
        wait_for_frames(cameras, profile.cameras, FIRST_FRAME_S)

        chunks = ChunkBuffer(
            len(profile.arm.joints),
            profile.arm.action_hz,
            profile.arm.seam_blend_s,
            profile.board.max_chunk_age_s,
        )
        request = Request(options.task, options.norm_tag, options.depth)
        thread = PolicyThread(policy, cameras, profile, chunks, request)
        gate = SafetyGate(profile)
        loop = ControlLoop(arm, chunks, gate, thread, cameras, box, profile.arm)

        reading = _first_reading(arm)
        thread.observe(reading.positions, reading.t_s)
        say("first policy call, before the arm has torque")
        problem = thread.warm_up()
        if problem is not None:
            raise RunError(f"the first policy call, before the arm moved: {problem}")
        stop, signals = stack.enter_context(_stop_on_signals())
        box.seal_card(_box_card(options, profile, policy))
        say("giving torque")
        arm.give_torque(file.handover(box))
        stack.callback(_end_policy, thread, say)
        stack.callback(_write_box, box, file, say)
        say(f"running: {options.task}")
        if recorder is not None:
            recorder.start(cameras)
            stack.callback(recorder.stop)
        thread.start()
        with punctual(profile.board.real_time) as lines:
            for line in lines:
                say(line)
            box.set_text("real_time", LINE_END.join(lines))
            return loop.run(options.seconds, stop), thread, signals


def _first_reading(arm: RobotArm) -> JointReading:
    """Measure before the loop runs, where one lost reply is not worth giving up for."""
    for _ in range(FIRST_READING_TRIES - 1):
        with suppress(JointIoError):
            return arm.read()
    return arm.read()


def _end_policy(thread: PolicyThread, say: Say) -> None:
    """Wait for the call in progress; the arm is soft already."""
    if thread.stop(POLICY_END_SOON_S):
        return
    say("the arm is soft; waiting for the policy call in progress")
    if not thread.stop(POLICY_END_S):
        say(f"the policy call in progress did not end within {POLICY_END_S:.0f} s")


def _write_box(box: BlackBox, file: BoxFile, say: Say) -> None:
    try:
        file.write(box)
    except BlackBoxError as error:
        say(str(error))
    else:
        say(f"black box written; look at it with 'molmoact-edge replay {file.path}'")


def _arm_access(
    options: RunOptions, profile: Profile, stack: ExitStack, say: Say
) -> tuple[_ArmAccess, SimulatedWorld | None]:
    """Say where the arm is, after starting the simulator if the profile wants one."""
    if profile.port != PORT_SIMULATED:
        calibration = options.calibration or profile.calibration
        return _ArmAccess(options.port, calibration, None), None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="molmoact-edge-")))
    say(f"starting the simulator (seed {options.seed})")
    with _signals_deferred():  # a signal between these two lines would leave an orphan
        world = SimulatedWorld(folder, options.seed, profile.cameras[0])
        stack.callback(world.stop)
    world.wait_ready()
    return _ArmAccess(str(world.link), world.calibration, world.frames_dir), world


def _write_outputs(
    options: RunOptions,
    report: dict[str, Any],
    box: BlackBox,
    calls: tuple[PolicyCall, ...],
    recorder: Recorder | None,
    say: Say,
) -> None:
    if options.report is not None:
        write_report(options.report, report)
    if options.arrays is not None:
        write_arrays(options.arrays, box)
    if options.record is not None and recorder is not None:
        from edge.plots import write_timeline
        from edge.video import write_video

        video, timeline = options.record / VIDEO_NAME, options.record / TIMELINE_NAME
        say(f"writing {video} and {timeline}")
        try:
            write_timeline(timeline, box, calls, report)
            write_video(video, list(recorder.frames), box, calls, report)
        except OSError as error:
            raise ReportError(f"{options.record}: cannot write: {error}") from error


def _card(options: RunOptions, profile: Profile, policy: Policy) -> RunCard:
    manifest = policy.bundle.manifest
    return RunCard(
        machine=machine_name(),
        python=platform.python_version(),
        bundle=str(options.bundle),
        recipe=manifest.recipe.name,
        source_sha256=manifest.source.sha256,
        profile=profile.name,
        board=profile.board.name,
        servos=SERVOS_EMULATED if profile.port == PORT_SIMULATED else SERVOS_REAL,
        task=options.task,
        depth=options.depth,
        control_hz=profile.arm.control_hz,
    )


def _box_card(options: RunOptions, profile: Profile, policy: Policy) -> dict[str, Any]:
    card = asdict(_card(options, profile, policy))
    card["task"] = card["task"][:TASK_CHARACTERS]
    return {
        **card,
        "manifest_sha256": _digest(Path(options.bundle) / MANIFEST_NAME),
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "started_s": time.monotonic(),
        "cameras": [camera.name for camera in profile.cameras],
        "profile_values": record_from_profile(profile),
    }


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@contextmanager
def _stop_on_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """Turn SIGNALS into an event; also give the list of those that came."""
    stop = threading.Event()
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        stop.set()

    with ExitStack() as stack:
        for number in SIGNALS:
            stack.enter_context(_handling(number, note))
        yield stop, received


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Deliver SIGNALS that come inside only afterwards."""
    received: list[int] = []
    with ExitStack() as stack:
        for number in SIGNALS:
            stack.enter_context(_handling(number, lambda number, _: received.append(number)))
        yield
    if received:
        signal.raise_signal(received[0])


@contextmanager
def _handling(number: int, handler: Callable[[int, object], object]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
