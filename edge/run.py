"""Run a bundle on an arm: put profile, policy, cameras, arm and loop together, and take them apart.

Everything that can fail does so before the arm gets torque: bundle, profile, calibration, cameras
and one policy call for nothing. From then on every way out leads through the soft stop.
"""

from __future__ import annotations

import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.announcer import Announcer
from edge.black_box import BlackBox
from edge.board_state import BoardReader
from edge.box_file import BoxHandover
from edge.box_layout import LINE_END
from edge.camera import Camera, close_cameras, open_cameras, wait_for_frames
from edge.chunks import ChunkBuffer
from edge.gate_entry import Asked, check_standing, judged_depth
from edge.joints import JointIoError, JointReading
from edge.ladder_rungs import Acting, usable_rungs
from edge.ladder_watch import LadderWatch
from edge.loop import END_STOP, ControlLoop, LoopEnd
from edge.manifest import DISCRETE, MANIFEST_NAME
from edge.normalization import choose_tag
from edge.pace import STEADY
from edge.policy import Policy
from edge.policy_thread import PolicyCall, PolicyThread, Request
from edge.profile import PORT_SIMULATED, ArmProfile, Profile
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
from edge.run_box import RunBox
from edge.run_options import TIMELINE_NAME, VIDEO_NAME, RunError, RunOptions, check_options
from edge.safety import SafetyGate
from edge.simulated_world import SimulatedWorld
from edge.stop_signals import handling, signals_deferred, stop_on_signals
from edge.task_turns import TaskTurns, Turn

FIRST_FRAME_S = 10.0
FIRST_READING_TRIES = 3
POLICY_END_S = 30.0
POLICY_END_SOON_S = 1.0


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


OpenArm = Callable[[Sequence[str], Sequence[Path], ArmProfile], RobotArm]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunResult:
    """How the loop ended, and everything measured."""

    end: LoopEnd
    signal_number: int | None
    report: dict[str, Any]
    calls: tuple[PolicyCall, ...]
    fault_trace: str | None
    output_error: str | None  # why a report, film or plot could not be written
    policy_hangs: bool  # its last call has not come back, and may never


@dataclass(frozen=True, slots=True)
class _ArmAccess:
    ports: tuple[str, ...]
    calibrations: tuple[Path, ...]
    frames_dir: Path | None
    world: SimulatedWorld | None


def run_robot(options: RunOptions, profile: Profile, open_arm: OpenArm, say: Say) -> RunResult:
    """Run until the time is over, a signal, or a safety stop; EdgeError when it cannot start.

    Before the arm has torque a signal ends the run as an exception, afterwards through the soft
    stop; the simulator is ended in every case.
    """
    check_options(options, profile)
    profile = replace(profile, board=leave_room(profile.board))
    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGHUP):
            stack.enter_context(handling(number, lambda number, _: sys.exit(128 + number)))
        box = RunBox(options.black_box, profile, options.longest_s, stack)
        say(f"opening {options.bundle}")
        policy = Policy.open(options.bundle, profile=profile, actions=options.actions)
        if options.depth is None:
            options = replace(options, depth=judged_depth(policy.bundle.manifest))
        say(f"{options.bundle}: {_judged(options, policy)}")
        if policy.actions == DISCRETE:
            profile = _without_commitment(profile)
            say("actions are tokens: chunks are blended, not held to what the arm does meanwhile")
        _check_fit(policy, options, profile)
        for task in options.tasks:
            policy.check_task(task)
        access = _arm_access(options, profile, stack, say)
        world = access.world
        recorder = Recorder() if options.record else None
        end, thread, turns, watch, signals = _drive(
            options, profile, policy, access, open_arm, box, recorder, say
        )
        calls = tuple(thread.calls)
        summary = None
        if world is not None:
            if end.how == END_STOP and (problem := world.ended()):
                end = replace(end, reason=f"{end.reason}; {problem}")
            say("stopping the simulator")
            summary = world.stop()
        card = _card(options, profile, policy)
        report = build_report(card, end, box.recorder, calls, summary, turns.records())
        report["black_box"] = None if box.path is None else str(box.path)
        report["ladder"] = None if watch is None else watch.record()
        output_error = None
        try:
            _write_outputs(options, report, box.recorder, calls, recorder, turns.turns, say)
        except ReportError as error:  # how the run ended is still to be told
            output_error = str(error)
        return RunResult(
            end=end,
            signal_number=signals[0] if signals else None,
            report=report,
            calls=calls,
            fault_trace=thread.fault_trace,
            output_error=output_error,
            policy_hangs=not thread.stop(0.0),
        )


def _without_commitment(profile: Profile) -> Profile:
    chunking = replace(profile.arm.real_time_chunking, hold_committed=False)
    return replace(profile, arm=replace(profile.arm, real_time_chunking=chunking))


def _judged(options: RunOptions, policy: Policy) -> str:
    """Return how the bundle stands; BundleError when it must not drive an arm."""
    tag = choose_tag(policy.bundle.tags, options.norm_tag)
    asked = Asked(policy.actions, tag.name, options.depth)
    return check_standing(options.bundle, policy.bundle.manifest, asked, options.accept)


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
    box: RunBox,
    recorder: Recorder | None,
    say: Say,
) -> tuple[LoopEnd, PolicyThread, TaskTurns, LadderWatch | None, list[int]]:
    """Open cameras and arm, run the loop, close them; the arm is limp afterwards."""
    with ExitStack() as stack:
        arm = open_arm(access.ports, access.calibrations, profile.arm)
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
        announcer = Announcer(say)
        stack.callback(announcer.close)
        watch = _ladder(options, profile, policy, cameras, announcer, stack)
        for line in () if watch is None else watch.lines():
            say(line)
        pacing = watch or STEADY
        request = Request(options.tasks[0], options.norm_tag, options.depth)
        thread = PolicyThread(policy, cameras, profile, chunks, request, pacing=pacing)
        turns = TaskTurns(
            options.tasks, options.task_seconds, access.world, thread.ask, announcer.tell
        )
        gate = SafetyGate(profile)
        loop = ControlLoop(
            arm,
            chunks,
            gate,
            thread,
            cameras,
            box.recorder,
            profile.arm,
            tasks=turns,
            pacing=pacing,
        )

        reading = _first_reading(arm)
        thread.observe(reading.positions, reading.t_s)
        say("first policy call, before the arm has torque")
        problem = thread.warm_up()
        if problem is not None:
            raise RunError(f"the first policy call, before the arm moved: {problem}")
        stop, signals = stack.enter_context(stop_on_signals())
        manifest = Path(options.bundle) / MANIFEST_NAME
        handover = box.seal(_card(options, profile, policy), manifest, profile)
        say("giving torque")
        arm.give_torque(handover)
        stack.callback(_end_policy, thread, say)
        stack.callback(lambda: say(box.write()))
        say(f"running: {options.task}")
        if recorder is not None:
            recorder.start(cameras)
            stack.callback(recorder.stop)
        thread.start()
        if watch is not None:
            watch.start()
        with punctual(profile.board.real_time) as lines:
            for line in lines:
                say(line)
            box.recorder.set_text("real_time", LINE_END.join(lines))
            end = loop.run(options.seconds, stop)
        if end.how == END_STOP:
            say(f"stopped: {end.reason}")
        return end, thread, turns, watch, signals


def _ladder(
    options: RunOptions,
    profile: Profile,
    policy: Policy,
    cameras: list[Camera],
    announcer: Announcer,
    stack: ExitStack,
) -> LadderWatch | None:
    """Make what watches the board, None without a ladder."""
    ladder = profile.board.ladder
    if ladder is None:
        return None
    tag = choose_tag(policy.bundle.tags, options.norm_tag)
    asked = Asked(policy.actions, tag.name, options.depth)
    chunk_s = tag.n_action_steps / profile.arm.action_hz
    manifest = policy.bundle.manifest
    acting = Acting(Path(options.bundle), manifest, asked, chunk_s, profile.cameras)
    rungs, left_out = usable_rungs(ladder, acting, profile.name, options.accept)
    board = BoardReader()
    stack.callback(board.close)
    watch = LadderWatch(ladder, rungs, left_out, board.state, cameras, announcer.tell)
    stack.callback(watch.stop)
    return watch


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


def _arm_access(options: RunOptions, profile: Profile, stack: ExitStack, say: Say) -> _ArmAccess:
    """Say where the arm is, after starting the simulator if the profile wants one."""
    if profile.port != PORT_SIMULATED:
        calibrations = options.calibrations or (profile.calibration,)
        return _ArmAccess(options.ports, calibrations, None, None)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="molmoact-edge-")))
    say(f"starting the simulator (seed {options.seed})")
    with signals_deferred():  # a signal between these two lines would leave an orphan
        world = SimulatedWorld(folder, options.seed, profile.cameras[0])
        stack.callback(world.stop)
    world.wait_ready()
    return _ArmAccess((str(world.link),), (world.calibration,), world.frames_dir, world)


def _write_outputs(
    options: RunOptions,
    report: dict[str, Any],
    box: BlackBox,
    calls: tuple[PolicyCall, ...],
    recorder: Recorder | None,
    turns: Sequence[Turn],
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
            write_timeline(timeline, box, calls, report, turns)
            write_video(video, list(recorder.frames), box, calls, turns)
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
        actions=policy.actions,
        control_hz=profile.arm.control_hz,
        judged=_judged(options, policy),
    )
