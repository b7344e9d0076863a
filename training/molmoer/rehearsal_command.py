"""molmoact-train rehearsal: show forgetting and its cure, as one table."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[1] / "recipes" / "nano"
_EXAMPLE = "example: molmoact-train rehearsal runs/rehearsal"


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "rehearsal",
        help="specialise, rehearse and train jointly, and compare in a table",
        description="Make question sets, train general, specialise, rehearse and joint, ask each "
        "checkpoint the test questions, and write table.md and table.json. What is there already "
        "in OUT is kept, so that the same command goes on after a stop.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the runs and the table")
    parser.add_argument(
        "--recipes", type=Path, default=RECIPES, metavar="DIR", help="default: the nano recipes"
    )
    parser.add_argument(
        "--questions", type=Path, metavar="DIR", help="sets made before (default: make them)"
    )
    parser.add_argument("--train", type=_count, default=12_000, metavar="N", help="questions a set")
    parser.add_argument("--test", type=_count, default=500, metavar="N", help="questions a set")
    parser.add_argument("--limit", type=_count, metavar="N", help="ask only N of each set")
    parser.add_argument("--seed", type=int, default=0, help="of the question sets (default: 0)")
    parser.add_argument(
        "--threads",
        type=_count,
        default=os.cpu_count() or 1,
        metavar="N",
        help="of all processes together (default: the machine's; fewer when others use it)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change every recipe"
    )
    parser.set_defaults(run=_rehearsal)


def _rehearsal(args: argparse.Namespace) -> int:
    from training.molmoer.rehearsal import TableSettings, run_table

    settings = TableSettings(
        recipes=args.recipes,
        questions=args.questions,
        train=args.train,
        test=args.test,
        seed=args.seed,
        threads=args.threads,
        changes=tuple(args.set),
        limit=args.limit,
    )
    run_table(args.out, settings)
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)
