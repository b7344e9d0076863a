"""`molmoact-bench`: figures about bundles, each with the machine it was measured on."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.ceiling import measure_ceiling
from benchmarks.fidelity import compare_bundles, print_report
from benchmarks.latency import FEWEST_REPEATS, measure_latency, print_latency
from benchmarks.peer_command import add_peer_command, run_peer
from edge.errors import EdgeError
from edge.report import machine_name
from firmware_bridge.command_line import CommandParser

_EXAMPLE = """example:
  molmoact-quantize build checkpoints/nano whole --recipe fp32
  molmoact-quantize build checkpoints/nano small --recipe int4
  molmoact-bench fidelity small --against whole
"""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog="molmoact-bench",
        description="Measure bundles.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fidelity = commands.add_parser(
        "fidelity",
        help="how far a bundle's actions are from another's",
        description="Play the same synthetic observations to two bundles and compare what the arm "
        "would be told: action error per joint in its own unit, beside the spread that full "
        "precision itself shows from one noise seed to the next, and agreement of depth codes.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fidelity.add_argument("bundle", type=Path)
    fidelity.add_argument("--against", type=Path, required=True, help="usually the fp32 bundle")
    fidelity.add_argument("--samples", type=_count, default=30, help="observations (default 30)")
    fidelity.add_argument("--cameras", type=_count, default=2, help="if the tag leaves it open")
    fidelity.add_argument("--norm-tag", help="needed when the bundle has several")
    fidelity.add_argument("--seed", type=int, default=0)
    latency = commands.add_parser(
        "latency",
        help="how long each stage takes, and what it grows with",
        description="Time policy calls stage by stage, without depth and with a given share of the "
        "depth cells changing from call to call, beside the least that memory bandwidth allows.",
        epilog="example: molmoact-bench latency bundle --changed 0 30 --repeats 30",
    )
    latency.add_argument("bundle", type=Path)
    latency.add_argument("--profile", help="board profile: threads and draft window")
    latency.add_argument(
        "--cameras", type=_count, nargs="+", default=[1, 2, 3], help="if the tag leaves it open"
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
        "--repeats",
        type=_count,
        default=FEWEST_REPEATS,
        help=f"counted calls a row (default {FEWEST_REPEATS}; fewer only for a first look)",
    )
    latency.add_argument("--norm-tag", help="needed when the bundle has several")
    ceiling = commands.add_parser(
        "ceiling",
        help="what this machine can do at best",
        description="Measure memory read bandwidth and matrix peaks in FP32 and INT8.",
        epilog="example: molmoact-bench ceiling",
    )
    ceiling.add_argument("--threads", type=_count, help="default: one a usable core")
    add_peer_command(commands, _count, _percent)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 on success, 2 when something is wrong with what was given."""
    args = build_parser().parse_args(argv)
    try:
        {
            "fidelity": _fidelity,
            "latency": _latency,
            "ceiling": _ceiling,
            "peer": run_peer,
        }[args.command](args)
    except EdgeError as error:
        print(f"molmoact-bench: error: {error}", file=sys.stderr)
        return 2
    return 0


def _fidelity(args: argparse.Namespace) -> None:
    report = compare_bundles(
        args.bundle,
        args.against,
        samples=args.samples,
        cameras=args.cameras,
        norm_tag=args.norm_tag,
        seed=args.seed,
    )
    print_report(report)


def _latency(args: argparse.Namespace) -> None:
    report = measure_latency(
        args.bundle,
        profile=args.profile,
        cameras=args.cameras,
        changed_percent=args.changed,
        norm_tag=args.norm_tag,
        repeats=args.repeats,
    )
    print_latency(report)


def _ceiling(args: argparse.Namespace) -> None:
    ceiling = measure_ceiling(args.threads)
    print(f"measured on {machine_name()} with {ceiling.threads} threads")
    print(f"memory reads {ceiling.read_gb_s:>8.1f} GB/s")
    print(f"FP32 product {ceiling.fp32_gflop_s:>8.0f} GFLOP/s")
    print(f"INT8 product {ceiling.int8_gop_s:>8.0f} GOP/s")
    print(json.dumps({"machine": machine_name(), **asdict(ceiling)}))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _percent(text: str) -> int:
    if not text.isdigit() or int(text) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 100")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
