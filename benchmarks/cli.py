"""`molmoact-bench`: figures about bundles, bus and loop, each with the machine that gave them."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.bus_command import add_bus_command, run_bus
from benchmarks.ceiling import measure_ceiling, print_ceiling
from benchmarks.compare_command import add_compare_command, run_compare
from benchmarks.fidelity_command import EXAMPLE, add_fidelity_command, run_fidelity
from benchmarks.latency import FEWEST_REPEATS, measure_latency
from benchmarks.latency_report import print_latency
from benchmarks.loop_command import add_loop_command, run_loop
from benchmarks.memory import measure_memory, print_memory
from benchmarks.peer_command import add_peer_command, run_peer
from benchmarks.plots import check_free, read_report, write_latency_plot
from benchmarks.predict_command import add_predict_command, run_predict
from benchmarks.profile_command import add_profile_command, run_profile
from edge.errors import EdgeError
from edge.manifest import MAX_CAMERAS
from edge.report import machine_name
from firmware_bridge.command_line import CommandParser, one_or_more, quiet_when_unread, zero_or_more

# Of the extra `demo`, which a robot does not have; imported where they are needed.
_OF_DEMO = ("matplotlib", "ml_dtypes", "mujoco", "onnx", "psutil", "safetensors", "tqdm")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog="molmoact-bench",
        description="Measure bundles, the servo bus and the control loop.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_fidelity_command(commands, one_or_more, zero_or_more, _seconds)
    _add_latency(commands)
    memory = commands.add_parser(
        "memory",
        help="how much memory a policy takes, and whether it grows",
        description="Open a bundle in a process of its own and call it, 30 % of the depth cells "
        "changed each time; print its own (anonymous) pages and those of mapped files apart, and "
        "the most it had inside each phase.",
        epilog="example: molmoact-bench memory bundle --profile sim --cycles 10",
    )
    memory.add_argument("bundle", type=Path)
    memory.add_argument("--profile", help="board profile: threads and draft window")
    memory.add_argument("--cycles", type=one_or_more, default=10, help="after the first call (10)")
    memory.add_argument("--cameras", type=_cameras, help="default: the tag's, or 2")
    memory.add_argument("--norm-tag", help="needed when the bundle has several")
    plot = commands.add_parser(
        "plot",
        help="draw a stored latency report again",
        description="Draw what 'molmoact-bench latency' printed (all of it, or its last line).",
        epilog="example: molmoact-bench plot latency.json docs/latency.png",
    )
    plot.add_argument("report", type=Path)
    plot.add_argument("picture", type=Path, help="PNG to write")
    ceiling = commands.add_parser(
        "ceiling",
        help="what this machine can do at best",
        description="Measure memory read bandwidth and matrix peaks in FP32 and INT8.",
        epilog="example: molmoact-bench ceiling",
    )
    ceiling.add_argument("--threads", type=one_or_more, help="default: one a usable core")
    add_peer_command(commands, one_or_more, _percent)
    add_bus_command(commands, one_or_more, zero_or_more)
    add_loop_command(commands, _seconds, zero_or_more)
    add_predict_command(commands, one_or_more, _cameras, _seconds)
    add_profile_command(commands, one_or_more, zero_or_more, _seconds)
    add_compare_command(commands)
    return parser


@quiet_when_unread
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 on success, 2 when something is wrong with what was given.

    1 is a fault campaign that found what must not happen, or a profile that became worse.
    """
    args = build_parser().parse_args(argv)
    try:
        exit_code = {
            "fidelity": run_fidelity,
            "latency": _latency,
            "memory": _memory,
            "plot": _plot,
            "ceiling": _ceiling,
            "peer": run_peer,
            "bus": run_bus,
            "loop": run_loop,
            "predict": run_predict,
            "profile": run_profile,
            "compare": run_compare,
        }[args.command](args)
    except ModuleNotFoundError as error:
        if error.name not in _OF_DEMO:
            raise
        hint = "pip install 'molmoact-edge[demo]'"
        print(f"molmoact-bench: error: needs {error.name}; install with: {hint}", file=sys.stderr)
        return 2
    except EdgeError as error:
        print(f"molmoact-bench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("molmoact-bench: interrupted", file=sys.stderr)
        return 130
    return exit_code or 0


def _latency(args: argparse.Namespace) -> None:
    if args.plot:
        check_free(args.plot)
    report = measure_latency(
        args.bundle,
        profile=args.profile,
        cameras=args.cameras,
        changed_percent=args.changed,
        horizons=args.horizon,
        norm_tag=args.norm_tag,
        repeats=args.repeats,
        seconds_per_row=args.seconds_per_row,
    )
    print_latency(report)
    if args.plot:
        write_latency_plot(asdict(report), args.plot)


def _memory(args: argparse.Namespace) -> None:
    report = measure_memory(
        args.bundle,
        profile=args.profile,
        cycles=args.cycles,
        cameras=args.cameras,
        norm_tag=args.norm_tag,
    )
    print_memory(report)


def _plot(args: argparse.Namespace) -> None:
    write_latency_plot(read_report(args.report), args.picture)


def _ceiling(args: argparse.Namespace) -> None:
    ceiling = measure_ceiling(args.threads)
    print(f"measured on {machine_name()} with {ceiling.threads} threads; the best way counts")
    print_ceiling(ceiling)
    print(json.dumps({"bench": "ceiling", "machine": machine_name(), **asdict(ceiling)}))


def _add_latency(commands: argparse._SubParsersAction) -> None:
    latency = commands.add_parser(
        "latency",
        help="how long each stage takes, and what it grows with",
        description="Time policy calls stage by stage. Cameras, share of changed depth cells and "
        "horizon are varied one at a time, from a base of the tag's cameras and horizon and 30 % "
        "changed (or the nearest given), beside the least that this machine's ceiling allows.",
        epilog="example: molmoact-bench latency bundle --changed 0 30 --repeats 30 --plot l.png",
    )
    latency.add_argument("bundle", type=Path)
    latency.add_argument("--profile", help="board profile: threads and draft window")
    latency.add_argument(
        "--cameras",
        type=_cameras,
        nargs="+",
        default=[1, 2, 3],
        help="numbers of cameras, whatever the tag says (default 1 2 3)",
    )
    latency.add_argument(
        "--changed",
        type=_percent,
        nargs="+",
        default=[0, 10, 30, 100],
        metavar="PERCENT",
        help="shares of depth cells that change (default 0 10 30 100)",
    )
    latency.add_argument(
        "--horizon",
        type=one_or_more,
        nargs="+",
        metavar="ACTIONS",
        help="actions predicted a call (default a half and the whole of the model's)",
    )
    latency.add_argument(
        "--repeats",
        type=one_or_more,
        default=FEWEST_REPEATS,
        help=f"counted calls a row (default {FEWEST_REPEATS}; fewer only for a first look)",
    )
    latency.add_argument(
        "--seconds-per-row", type=_seconds, metavar="S", help="end a row that has taken this long"
    )
    latency.add_argument("--plot", type=Path, metavar="PNG", help="also draw the report")
    latency.add_argument("--norm-tag", help="needed when the bundle has several")


def _cameras(text: str) -> int:
    count = one_or_more(text)
    if count > MAX_CAMERAS:
        raise argparse.ArgumentTypeError(f"{count} cameras; a model reads at most {MAX_CAMERAS}")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _percent(text: str) -> int:
    if not text.isdigit() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 100")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
