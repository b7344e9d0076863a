"""What `molmoact-edge run` was asked for, and the checks that need no bundle and no arm."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError
from edge.profile import PORT_SIMULATED, Profile
from edge.recording import require_recording_extras

VIDEO_NAME, TIMELINE_NAME = "video.mp4", "timeline.png"


class RunError(EdgeError):
    """A run that cannot start as asked."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line, typed; None where nothing was given."""

    bundle: Path
    tasks: tuple[str, ...]  # one after the other
    depth: str | None  # off, full or incremental; None: as the bundle passed its gate, else off
    norm_tag: str | None
    ports: tuple[str, ...] | None  # one for each arm of the profile, in its order
    calibrations: tuple[Path, ...] | None
    seconds: float | None  # of the whole run
    seed: int
    report: Path | None
    arrays: Path | None
    record: Path | None
    black_box: Path | None
    actions: str | None = None  # continuous or discrete; None: what the bundle does by itself
    accept: tuple[str, ...] = ()  # of edge.gate_entry.ACCEPTABLE, what is run all the same
    task_seconds: float | None = None  # of each task at most; None: one task, as long as the run

    @property
    def task(self) -> str:
        """The tasks in one text."""
        return "; then ".join(self.tasks)

    @property
    def longest_s(self) -> float:
        """How long the run can be; infinite where nothing bounds it."""
        tasks_s = math.inf if self.task_seconds is None else len(self.tasks) * self.task_seconds
        return min(self.seconds or math.inf, tasks_s)


def check_options(options: RunOptions, profile: Profile) -> None:
    """Raise RunError when the options contradict the profile or an output could not be written.

    Makes the folder of --record.
    """
    _check_arms(options, profile)
    if len(options.tasks) > 1 and options.task_seconds is None:
        raise RunError(
            f"{len(options.tasks)} tasks and no --task-seconds; say how long each may take"
        )
    for path in (options.report, options.arrays, options.black_box):
        if path is not None:
            _check_new_file(path)
    if options.record is not None:
        require_recording_extras()
        try:
            options.record.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{options.record}: cannot be a folder: {error.strerror}") from error
        for name in (VIDEO_NAME, TIMELINE_NAME):
            _check_absent(options.record / name)


def _check_arms(options: RunOptions, profile: Profile) -> None:
    given = (("--port", options.ports), ("--calibration", options.calibrations))
    n_arms = profile.arm.n_buses
    if profile.port == PORT_SIMULATED:
        for name, values in given:
            if values:
                raise RunError(f"profile {profile.name} simulates its arm; leave {name} out")
        if n_arms != 1:
            raise RunError(
                f"arm profile {profile.arm.name} has {n_arms} arms, the simulator has one; use "
                "'port: given' and real arms"
            )
        return
    if not options.ports:
        raise RunError(f"profile {profile.name} drives a real arm; give its port with --port")
    if not (options.calibrations or (profile.calibration and n_arms == 1)):
        raise RunError(
            f"profile {profile.name} names no calibration; give LeRobot's calibration file of "
            "this arm with --calibration"
        )
    for name, values in given:
        if values and len(values) != n_arms:
            names = ", ".join(seat.name for seat in profile.arm.arms)
            raise RunError(
                f"{name} was given {len(values)} times, arm profile {profile.arm.name} needs it "
                f"{n_arms} times: {names}"
            )
    if len({os.path.realpath(port) for port in options.ports}) != n_arms:
        raise RunError(f"--port {', '.join(options.ports)}: one port twice; give each arm its own")


def _check_new_file(path: Path) -> None:
    _check_absent(path)
    if not path.parent.is_dir():
        raise RunError(f"{path}: the folder {path.parent} does not exist; create it first")


def _check_absent(path: Path) -> None:
    if path.exists():
        raise RunError(f"{path}: already exists; remove it or choose another path")
