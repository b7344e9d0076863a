"""`molmoact-bench loop`: its words, and what they start."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.loop_bench import measure_loop
from benchmarks.loop_table import print_loop
from edge.gate_entry import judged_depth
from edge.manifest import read_manifest
from edge.observation import DEPTH_MODES
from edge.run_arguments import add_acceptance
from edge.run_options import RunOptions

RATES_HZ = (50.0, 100.0, 200.0)
LOWEST_HZ, HIGHEST_HZ = 1.0, 200.0
EXIT_SIGNAL = 128


def add_loop_command(
    commands: argparse._SubParsersAction,
    seconds: Callable[[str], float],
    seed: Callable[[str], int],
) -> None:
    """Describe the sub-command; `seconds` and `seed` read numbers."""
    loop = commands.add_parser(
        "loop",
        help="how punctual the control loop is while the policy runs",
        description="Run a bundle at several control rates, each as 'molmoact-edge run' would, and "
        "print missed ticks, lateness, the age from camera to command, and what real-time settings "
        "the operating system granted. With a real arm's profile the arm moves.",
        epilog="example: molmoact-bench loop bundle --profile sim --rates 50 100 200 --seconds 20 "
        "--accept-unjudged",
    )
    loop.add_argument("bundle", type=Path)
    loop.add_argument("--profile", required=True, help="name of a shipped profile, or a .yaml path")
    loop.add_argument(
        "--rates",
        type=_rate,
        nargs="+",
        default=list(RATES_HZ),
        metavar="HZ",
        help=f"control rates, {LOWEST_HZ:g}..{HIGHEST_HZ:g} (default 50 100 200)",
    )
    loop.add_argument("--seconds", type=seconds, default=20.0, help="at each rate (default 20)")
    loop.add_argument("--task", default="pick up the red cube", help="(default %(default)r)")
    loop.add_argument(
        "--depth",
        choices=DEPTH_MODES,
        help="(default: as the bundle passed its gate, else off)",
    )
    loop.add_argument("--norm-tag", help="needed when the bundle has several")
    loop.add_argument("--port", action="append", help="of a real arm; once for each arm")
    loop.add_argument(
        "--calibration", type=Path, action="append", metavar="FILE", help="once for each arm"
    )
    loop.add_argument("--seed", type=seed, default=0, help="of the simulated desk (default 0)")
    add_acceptance(loop)


def run_loop(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code, raises `EdgeError`."""
    options = RunOptions(
        bundle=args.bundle,
        tasks=(args.task,),
        depth=args.depth or judged_depth(read_manifest(args.bundle)),
        norm_tag=args.norm_tag,
        ports=None if args.port is None else tuple(args.port),
        calibrations=None if args.calibration is None else tuple(args.calibration),
        seconds=args.seconds,
        seed=args.seed,
        report=None,
        arrays=None,
        record=None,
        black_box=None,
        accept=tuple(args.accept or ()),
    )
    report = measure_loop(options, args.profile, args.rates, _say)
    print_loop(report)
    if report.signal_number is not None:
        return EXIT_SIGNAL + report.signal_number
    if report.policy_hangs:
        # Ending the interpreter under an engine that computes can crash and hide the exit code.
        sys.stdout.flush()
        os._exit(0)
    return 0


def _rate(text: str) -> float:
    try:
        rate_hz = float(text)
    except ValueError:
        rate_hz = 0.0
    if not LOWEST_HZ <= rate_hz <= HIGHEST_HZ:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a rate of {LOWEST_HZ:g}..{HIGHEST_HZ:g} Hz"
        )
    return rate_hz


def _say(line: str) -> None:
    print(f"molmoact-bench: {line}", file=sys.stderr, flush=True)
