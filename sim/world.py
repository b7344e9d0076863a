"""The demo world as a process: an SO-101 on a desk behind an emulated servo bus, with cameras.

    python -m sim.world --link /tmp/arm --frames /tmp/frames --seed 3

The port appears at --link when the first pictures are in --frames. Physics follows real time in
steps of 2 ms; what this process oversleeps beyond a tenth of a second is left out and counted as
slip. With --judge it takes instructions on standard input and says in JSON lines what its referee
finds (`sim.judged_tasks`). It ends on SIGTERM or SIGINT, or with the process that started it once
the arm is soft, and takes the link, the frame files and the camera process with it. The last line
of output is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from firmware_bridge import registers
from firmware_bridge.calibration import CalibrationError, save_calibration
from firmware_bridge.command_line import CommandParser
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.pty_server import LinkError, serve
from sim.camera_process import (
    DEFAULT_RATE_HZ,
    DEFAULT_SIZE,
    MAX_RATE_HZ,
    CameraError,
    CameraProcess,
    parse_size,
)
from sim.gl import GlError
from sim.judged_tasks import InstructionStream, JudgedTasks
from sim.model import World
from sim.plant import MujocoPlant

TRUTH_INTERVAL_S = 0.05
MAX_TRUTH_LINES = 72_000
# An arm that nobody lets down any more is not simulated for ever.
LINGER_S = 10.0
# Whoever took the torque off reads it back.
FAREWELL_S = 1.0
LEAST_PRIORITY = 1  # of the real-time ones


class WorldError(Exception):
    """The world cannot start or keep running as asked."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run of the world came to; times in seconds."""

    seed: int
    wall_s: float
    simulated_s: float
    slip_s: float
    cubes_in_bin: tuple[str, ...]
    cameras: dict[str, float] | None


class WorldServer:
    """Serves one seeded world; `stop` may be set from a signal handler."""

    def __init__(
        self,
        seed: int,
        *,
        record_truth: bool = False,
        parent_pid: int | None = None,
        instructions: InstructionStream | None = None,
    ) -> None:
        self.stop = threading.Event()
        self.world = World(seed)
        self.bus = EmulatedBus(MujocoPlant(self.world))
        self.truth_lines: deque[str] = deque(maxlen=MAX_TRUTH_LINES)
        self._seed = seed
        self._record_truth = record_truth
        self._next_truth_s = -float("inf")
        self._cameras: CameraProcess | None = None
        self._instructions = instructions
        self._tasks = JudgedTasks(self.world, seed, _print_line)
        self._orphaned_s: float | None = None
        self._torque_s = -float("inf")  # when it was last on, since the parent is gone
        self._parent = os.getppid() if parent_pid is None else parent_pid

    def run(
        self, link: Path, cameras: CameraProcess | None, on_ready: Callable[[], None]
    ) -> Summary:
        """Serve until `stop` is set, or the parent is gone and the arm soft; close `cameras` then.

        `on_ready` is called once, when the port is at `link`.
        """
        self._cameras = cameras
        start_s, start_sim_s = time.monotonic(), float(self.world.data.time)
        try:
            serve(
                self.bus,
                link,
                self.stop,
                on_ready=lambda _: on_ready(),
                on_tick=self._on_tick,
            )
        finally:
            wall_s = time.monotonic() - start_s
            statistics = cameras.close() if cameras is not None else None
        simulated_s = float(self.world.data.time) - start_sim_s
        return Summary(
            seed=self._seed,
            wall_s=round(wall_s, 3),
            simulated_s=round(simulated_s, 3),
            slip_s=round(max(0.0, wall_s - simulated_s), 3),
            cubes_in_bin=self.world.truth().cubes_in_bin,
            cameras=statistics,
        )

    def _on_tick(self) -> None:
        now_s = time.monotonic()
        if self._instructions is not None:
            self._judge(self._instructions, now_s)
        if self._cameras is not None:
            self._cameras.publish(now_s, self.world.data.qpos, self._tasks.mark_m)
        if self._record_truth and now_s >= self._next_truth_s:
            self._next_truth_s = now_s + TRUTH_INTERVAL_S
            truth = asdict(self.world.truth())
            sim_s = truth.pop("t_s")
            self.truth_lines.append(json.dumps({"t_s": now_s, "sim_s": sim_s, **truth}))
        if os.getppid() != self._parent and self._may_end(now_s):
            self.stop.set()

    def _judge(self, instructions: InstructionStream, now_s: float) -> None:
        newest = instructions.newest()
        if newest is not None:
            self._tasks.begin(*newest, now_s)
        self._tasks.look(now_s)

    def _may_end(self, now_s: float) -> bool:
        """Whether the arm is soft: a program that was killed leaves that to its watchdog."""
        self._orphaned_s = self._orphaned_s or now_s
        if any(servo.value(registers.TORQUE_ENABLE) for servo in self.bus.servos):
            self._torque_s = now_s
        return now_s - self._torque_s > FAREWELL_S or now_s - self._orphaned_s > LINGER_S


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog="python -m sim.world",
        description="Simulate an SO-101 on a desk behind an emulated servo bus.",
        epilog="example: python -m sim.world --link /tmp/arm --frames /tmp/frames --seed 3",
    )
    parser.add_argument("--link", type=Path, required=True, help="where the port shall appear")
    parser.add_argument(
        "--frames", type=Path, required=True, metavar="DIR", help="folder for the frame files"
    )
    parser.add_argument(
        "--seed", type=_whole_number, default=0, help="where the cubes lie (default 0)"
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=DEFAULT_SIZE,
        metavar="WxH",
        help="pictures in pixels (default {}x{})".format(*DEFAULT_SIZE),
    )
    parser.add_argument(
        "--camera-hz",
        type=_camera_hz,
        default=DEFAULT_RATE_HZ,
        metavar="HZ",
        help=f"frames per second of each camera, 0 for no cameras (default {DEFAULT_RATE_HZ:g})",
    )
    parser.add_argument("--shadows", action="store_true", help="nicer pictures for twice the time")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="write the arm's LeRobot calibration"
    )
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="write poses over time at the end, JSON lines"
    )
    parser.add_argument(
        "--judge",
        action="store_true",
        help='judge what standard input asks for: {"task": 0, "instruction": "..."} a line',
    )
    parser.add_argument(
        "--parent",
        type=_whole_number,
        metavar="PID",
        help="end when this is no longer the parent process (default: the parent at the start)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the world; 0 when it was ended, 1 when it broke, 2 when it could not start as asked."""
    args = build_parser().parse_args(argv)
    server = WorldServer(
        args.seed,
        record_truth=args.truth is not None,
        parent_pid=args.parent,
        instructions=InstructionStream(sys.stdin.fileno()) if args.judge else None,
    )
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: server.stop.set())
    try:
        _require_new_file(args.truth)
        cameras = _start_cameras(args, server.world)
    except (CameraError, GlError, WorldError) as error:
        return _fail(error, 2)

    _answer_promptly()

    def on_ready() -> None:
        if args.calibration is not None:
            save_calibration(default_calibration(), args.calibration)
        print(f"ready {args.link}", flush=True)

    try:
        summary = server.run(args.link, cameras, on_ready)
    except (LinkError, CalibrationError) as error:
        return _fail(error, 2)
    except CameraError as error:
        return _fail(error, 1)
    if args.truth is not None:
        args.truth.write_text("".join(f"{line}\n" for line in server.truth_lines))
    print(json.dumps(asdict(summary)), flush=True)
    return 0


def _start_cameras(args: argparse.Namespace, world: World) -> CameraProcess | None:
    if args.camera_hz == 0:
        return None
    return CameraProcess(
        args.frames,
        world.data.qpos,
        size=args.size,
        rate_hz=args.camera_hz,
        shadows=args.shadows,
    )


def _answer_promptly() -> None:
    """Go before other programs where that is allowed: servos answer whatever the computer does."""
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(LEAST_PRIORITY))


def _require_new_file(path: Path | None) -> None:
    if path is None:
        return
    if path.exists():
        raise WorldError(f"{path} already exists; remove it or choose another path")
    if not path.parent.is_dir():
        raise WorldError(f"{path}: there is no folder {path.parent}; make it first")


def _print_line(line: str) -> None:
    print(line, flush=True)


def _fail(error: Exception, code: int) -> int:
    print(f"sim.world: error: {error}", file=sys.stderr)
    return code


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: a whole number of 0 or more is needed")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _camera_hz(text: str) -> float:
    rate_hz = float(text)
    if not (rate_hz == 0 or 0.1 <= rate_hz <= MAX_RATE_HZ):
        raise argparse.ArgumentTypeError(f"{text}: 0, or 0.1..{MAX_RATE_HZ:g} frames per second")
    return rate_hz


if __name__ == "__main__":
    sys.exit(main())
