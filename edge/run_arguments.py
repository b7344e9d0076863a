"""The command line of `molmoact-edge run`, and what was asked for on it."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from edge.gate_entry import FAILED, UNJUDGED
from edge.manifest import CONTINUOUS, DISCRETE
from edge.observation import DEPTH_MODES
from edge.run_options import RunOptions


def add_run(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    run = commands.add_parser(
        "run",
        help="drive an arm, real or simulated",
        description="Drive an arm with a bundle until the time is over, Ctrl-C or a safety stop. "
        "The arm is let down softly in every case.",
        epilog="example: molmoact-edge run bundle/ --profile sim --task 'pick up the red cube' "
        "--depth incremental --seconds 20 --report report.json. "
        "Exit codes: 0 time or tasks over, done or not, 2 could not start or stopped for safety, "
        "130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.",
    )
    run.add_argument("bundle", type=Path, help="folder made by 'molmoact-quantize build'")
    run.add_argument("--profile", required=True, help="name of a shipped profile, or a .yaml path")
    run.add_argument(
        "--task",
        action="append",
        required=True,
        type=_task,
        metavar="WORDS",
        help="what to do, in plain words; several are done one after the other",
    )
    run.add_argument(
        "--port",
        action="append",
        help="serial port of a real arm, best under /dev/serial/by-id; once for each arm",
    )
    run.add_argument(
        "--calibration",
        type=Path,
        action="append",
        metavar="FILE",
        help="LeRobot calibration file; once for each arm",
    )
    run.add_argument(
        "--depth",
        choices=DEPTH_MODES,
        help="depth reasoning (default: as the bundle passed its gate, else off)",
    )
    run.add_argument(
        "--actions",
        choices=(CONTINUOUS, DISCRETE),
        help="by the flow expert, or as tokens (default: continuous where the bundle can)",
    )
    run.add_argument("--norm-tag", help="which robot's statistics to use, when the bundle has many")
    run.add_argument(
        "--seconds",
        type=_seconds,
        help="of the whole run; without it until the tasks are over, or Ctrl-C",
    )
    run.add_argument(
        "--task-seconds",
        type=_seconds,
        metavar="SECONDS",
        help="of each task at most: then comes the next, or the end. Where the arm is simulated a "
        "task is over sooner when the physics says that it is done",
    )
    run.add_argument(
        "--dead-man",
        action="store_true",
        help="move only while 'molmoact-arm hold-to-run' is held in another terminal",
    )
    run.add_argument("--seed", type=_seed, default=0, help="of the simulated desk (default 0)")
    run.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON")
    run.add_argument("--arrays", type=Path, metavar="FILE", help="write every tick as .npz")
    run.add_argument("--record", type=Path, metavar="DIR", help="write video.mp4 and timeline.png")
    run.add_argument(
        "--black-box",
        type=Path,
        metavar="FILE",
        help="record the newest ticks there (default: a dated file, see the board profile)",
    )
    add_acceptance(run)


def add_acceptance(command: argparse.ArgumentParser) -> None:
    """Describe how to run a bundle that `molmoact-quantize gate` has not passed."""
    help_texts = {
        FAILED: "run a bundle that failed its gate, and use rungs of the ladder that failed trials",
        UNJUDGED: "run a bundle that was never judged, or was altered since; use rungs never tried",
    }
    for name, text in help_texts.items():
        command.add_argument(
            f"--accept-{name}", dest="accept", action="append_const", const=name, help=text
        )


def run_options(args: argparse.Namespace) -> RunOptions:
    """Return what was asked for, typed."""
    return RunOptions(
        bundle=args.bundle,
        tasks=tuple(args.task),
        depth=args.depth,
        norm_tag=args.norm_tag,
        ports=tuple(args.port) if args.port else None,
        calibrations=tuple(args.calibration) if args.calibration else None,
        seconds=args.seconds,
        seed=args.seed,
        report=args.report,
        arrays=args.arrays,
        record=args.record,
        black_box=args.black_box,
        actions=args.actions,
        accept=tuple(args.accept or ()),
        task_seconds=args.task_seconds,
    )


def _task(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the task is empty; say what the arm should do")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0.0):
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0 is needed")
    return seconds


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: a seed is a whole number of 0 or more")
    return int(text)
