"""`molmoact-edge replay FILE`: what a black box says, its plots, and the safety gate once more."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from edge.box_reader import read_box
from edge.profile import load_profile
from edge.replay import format_summary, summarise
from edge.replay_gate import format_gate, recorded_profile, rerun_gate
from edge.replay_plots import plot_paths, write_plots

LAST_S = 1.0
MOST_LAST_S = 3600.0


def add_replay(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    replay = commands.add_parser(
        "replay",
        help="show what a black box recorded",
        description="Show why a run ended, what came before, and the worst values in between.",
        epilog="example: molmoact-edge replay run.box --gate --plot run.png",
    )
    replay.add_argument("file", type=Path, help="written by 'molmoact-edge run'")
    replay.add_argument(
        "--last",
        type=_seconds,
        default=LAST_S,
        metavar="S",
        help=f"show every tick of the last S seconds (default {LAST_S:g})",
    )
    replay.add_argument(
        "--plot", type=Path, metavar="DIR|FILE.png", help="draw it, needs the extra 'demo'"
    )
    replay.add_argument(
        "--gate", action="store_true", help="judge every tick again and show what differs"
    )
    replay.add_argument(
        "--profile", help="for --gate: a profile with other limits (default: the recorded one)"
    )
    replay.add_argument("--json", action="store_true", help="print one JSON object instead")


def run_replay(args: argparse.Namespace) -> None:
    """Run the command; EdgeError when the file or the options will not do."""
    box = read_box(args.file)
    paths = None if args.plot is None else plot_paths(args.plot)
    result = summarise(box, args.last)
    if args.gate or args.profile is not None:
        profile = recorded_profile(box) if args.profile is None else load_profile(args.profile)
        result["gate"] = rerun_gate(box, profile)
    if paths is not None:
        write_plots(box, paths)
        result["plots"] = [str(path) for path in paths]
    if args.json:
        print(json.dumps(result))
        return
    print(format_summary(result))
    if "gate" in result:
        print(format_gate(result["gate"]))
    for path in result.get("plots", ()):
        print(f"plot           {path}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds <= MOST_LAST_S:
        raise argparse.ArgumentTypeError(
            f"{text}: a number of seconds is needed, 0 to {MOST_LAST_S:g}"
        )
    return seconds
