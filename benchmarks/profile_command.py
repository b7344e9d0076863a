"""`molmoact-bench profile`: its words, and what they start."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import ProfileBenchError, ProfileInterruptedError
from benchmarks.latency import FEWEST_REPEATS
from benchmarks.loop_command import EXIT_SIGNAL
from benchmarks.perfetto_trace import trace_of
from benchmarks.profile_html import html_of
from benchmarks.profile_report import HTML_NAME, REPORT_NAME, TRACE_NAME, as_json
from benchmarks.profile_run import REST_S, Profiled, ProfileOptions, measure_profile
from benchmarks.profile_table import print_profile
from edge.gate_entry import judged_depth
from edge.manifest import read_manifest
from edge.observation import DEPTH_MODES
from edge.run_arguments import add_acceptance
from edge.simulated_world import INSTALL_HINT

LOOP_S = 30.0
EXIT_STOPPED = 2  # as of `molmoact-edge run`


def add_profile_command(
    commands: argparse._SubParsersAction,
    one_or_more: Callable[[str], int],
    zero_or_more: Callable[[str], int],
    seconds: Callable[[str], float],
) -> None:
    """Describe the sub-command; the functions read numbers."""
    profile = commands.add_parser(
        "profile",
        help="profile a bundle on this machine: stages, loop, temperatures, clocks, power",
        description="Measure the stages of a policy call, then the control loop, on the machine "
        "this runs on, while its temperatures, clocks, power and throttling are sampled. Writes "
        "report.json, report.html and trace.json (for ui.perfetto.dev) into a new folder. With "
        "--port the arm moves; without, a profile of a real arm borrows the simulated one.",
        epilog="example: molmoact-bench profile bundle --profile sim --out profiled --seconds 30 "
        "--accept-unjudged",
    )
    profile.add_argument("bundle", type=Path)
    profile.add_argument(
        "--profile", required=True, help="name of a shipped profile or board, or a .yaml path"
    )
    profile.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to make; must not exist"
    )
    profile.add_argument(
        "--seconds", type=seconds, default=LOOP_S, help=f"of the loop (default {LOOP_S:g})"
    )
    profile.add_argument("--no-loop", action="store_true", help="measure the stages alone")
    profile.add_argument(
        "--repeats",
        type=one_or_more,
        default=FEWEST_REPEATS,
        help=f"counted calls of the policy a setting (default {FEWEST_REPEATS})",
    )
    profile.add_argument(
        "--seconds-per-row", type=seconds, metavar="S", help="end a setting that took this long"
    )
    profile.add_argument(
        "--rest", type=seconds, default=REST_S, help=f"before anything runs (default {REST_S:g})"
    )
    profile.add_argument("--task", default="put the red cube in the bin", help="(%(default)r)")
    profile.add_argument(
        "--depth",
        choices=DEPTH_MODES,
        help="in the loop (default: as the bundle passed its gate, else off)",
    )
    profile.add_argument("--norm-tag", help="needed when the bundle has several")
    profile.add_argument("--port", action="append", help="of a real arm; once for each arm")
    profile.add_argument(
        "--calibration", type=Path, action="append", metavar="FILE", help="once for each arm"
    )
    profile.add_argument(
        "--seed", type=zero_or_more, default=0, help="of the simulated desk (default 0)"
    )
    add_acceptance(profile)


def run_profile(args: argparse.Namespace) -> int:
    """Measure, write and print; returns the exit code, raises `EdgeError`."""
    check_new(args.out)
    if importlib.util.find_spec("matplotlib") is None:
        raise ProfileBenchError(f"{HTML_NAME} has pictures, drawn by matplotlib; {INSTALL_HINT}")
    try:
        profiled = measure_profile(_options(args), _say)
    except ProfileInterruptedError as error:
        _say(str(error))
        return EXIT_SIGNAL + error.signal_number
    write_profile(args.out, profiled)
    print_profile(profiled.report, args.out)
    loop = profiled.report.loop
    stopped = loop.stopped if loop else None
    if stopped:
        _say(f"the loop was stopped after {loop.seconds:.1f} s: {stopped}")
    exit_code = EXIT_STOPPED if stopped else 0
    if profiled.loop is not None and profiled.loop.result.policy_hangs:
        # Ending the interpreter under an engine that computes can crash and hide the exit code.
        sys.stdout.flush()
        os._exit(exit_code)
    return exit_code


def check_new(folder: Path) -> None:
    """Raise `ProfileBenchError` when `folder` cannot be made, before minutes are spent for it."""
    if folder.exists() or folder.is_symlink():
        raise ProfileBenchError(f"{folder}: exists already and is not overwritten; name another")
    if not folder.absolute().parent.is_dir():
        raise ProfileBenchError(f"{folder}: no folder {folder.absolute().parent}; create it first")


def write_profile(folder: Path, profiled: Profiled) -> None:
    """Write the three files; the folder appears with all of them or not at all."""
    contents = {
        REPORT_NAME: json.dumps(as_json(profiled.report), indent=1, allow_nan=False) + "\n",
        HTML_NAME: html_of(profiled.report),
        TRACE_NAME: json.dumps(trace_of(profiled), allow_nan=False) + "\n",
    }
    parent = folder.absolute().parent
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
    except OSError as error:
        raise ProfileBenchError(f"{parent}: cannot be written: {error.strerror}") from None
    try:
        for name, content in contents.items():
            (partial / name).write_text(content, encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        raise ProfileBenchError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _options(args: argparse.Namespace) -> ProfileOptions:
    depth = args.depth or judged_depth(read_manifest(args.bundle))
    return ProfileOptions(
        bundle=args.bundle,
        profile=args.profile,
        seconds=None if args.no_loop else args.seconds,
        repeats=args.repeats,
        seconds_per_row=args.seconds_per_row,
        rest_s=args.rest,
        task=args.task,
        depth=depth,
        norm_tag=args.norm_tag,
        ports=None if args.port is None else tuple(args.port),
        calibrations=None if args.calibration is None else tuple(args.calibration),
        seed=args.seed,
        accept=tuple(args.accept or ()),
        command=f"molmoact-bench profile {args.bundle} --profile {args.profile} --repeats "
        f"{args.repeats} "
        + ("--no-loop" if args.no_loop else f"--seconds {args.seconds:g} --depth {depth}"),
    )


def _say(line: str) -> None:
    print(f"molmoact-bench: {line}", file=sys.stderr, flush=True)
