"""`molmoact-bench peer`: its words, and what they start."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import PeerError
from benchmarks.peer import Settings, measure_peers
from benchmarks.peer_job import PLACES
from benchmarks.peer_table import print_peers
from edge.report import machine_name

_EXAMPLE = """example:
  molmoact-train init full --size full --dtype bf16
  molmoact-quantize build full small --recipe int4
  molmoact-bench peer full small --scratch /var/tmp
"""


def add_peer_command(
    commands: argparse._SubParsersAction,
    count: Callable[[str], int],
    percent: Callable[[str], int],
) -> None:
    """Describe the sub-command; `count` and `percent` read numbers."""
    peer = commands.add_parser(
        "peer",
        help="bundles against LeRobot's model and llama.cpp, in one run",
        description="Run LeRobot's MolmoAct2 in bfloat16, every bundle, and llama.cpp with a Q4_0 "
        "file of the same decoder, each in a process of its own, one after the other, with the "
        "same threads, pictures and changed cells. With random weights it is known which codes "
        "the model answers, so as many of them move as a row says.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    peer.add_argument("checkpoint", type=Path)
    peer.add_argument("bundles", type=Path, nargs="+", metavar="bundle", help="built from it")
    peer.add_argument(
        "--profile",
        default="so101",
        help="board profile: threads and draft window (default so101: any CPU, every core)",
    )
    peer.add_argument(
        "--llama",
        action=argparse.BooleanOptionalAction,
        help="with or without llama.cpp (default: if llama-cpp-python is installed)",
    )
    peer.add_argument("--calls", type=count, default=3, help="counted calls a row (default 3)")
    peer.add_argument("--cameras", type=count, default=2, help="if the tag leaves it open")
    peer.add_argument(
        "--changed",
        type=percent,
        default=30,
        metavar="PERCENT",
        help="share of depth cells that change in the rows that say so (default 30)",
    )
    peer.add_argument(
        "--place",
        choices=PLACES,
        default=PLACES[0],
        help="changed cells: neighbours, as a thing that moves covers them (the default, and "
        "cheaper for LeRobot, which replays runs of unchanged cells), or anywhere",
    )
    peer.add_argument("--norm-tag", help="needed when the checkpoint has several")
    peer.add_argument(
        "--scratch",
        type=Path,
        help="existing folder for what is removed again: 2.1 GB for llama.cpp at full size "
        "(default: the system's)",
    )


def run_peer(args: argparse.Namespace) -> None:
    """Measure and print; raises `EdgeError`."""
    if args.scratch and not args.scratch.is_dir():
        raise PeerError(f"{args.scratch}: no such folder; create it or leave --scratch out")
    if len({path.name for path in args.bundles}) < len(args.bundles):
        raise PeerError("two bundles have the same name; rename one, the table shows names")
    settings = Settings(
        profile=args.profile,
        calls=args.calls,
        cameras=args.cameras,
        changed_percent=args.changed,
        place=args.place,
        norm_tag=args.norm_tag,
        llama=args.llama,
        scratch=args.scratch,
    )
    print(f"comparing on {machine_name()}; minutes at full size", file=sys.stderr, flush=True)
    # Ended from outside, it must take the process that it runs and its files with it.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = measure_peers(
            args.checkpoint,
            args.bundles,
            settings,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    print_peers(report)
