"""molmoact-train questions: make question sets of the simulated desk, of drawings, of text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_SUBJECTS = ("embodied", "maps", "lists", "mentions", "general", "text")
_EXAMPLE = "example: molmoact-train questions data/questions/embodied --kind embodied"


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "questions",
        help="make a set of questions with answers, for training and for testing",
        description="Make a set of questions with answers: of the simulated desk (embodied, "
        "maps or lists of where its cubes are, or places behind the words for them), of drawn "
        "pictures (general), or without pictures (text). No layout, drawing or wording of the test "
        "half is in the train half.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--kind", required=True, choices=_SUBJECTS, help="what is asked about")
    parser.add_argument(
        "--train",
        type=_count,
        default=12_000,
        metavar="N",
        help="questions to learn (default: 12000)",
    )
    parser.add_argument(
        "--test", type=_count, default=600, metavar="N", help="questions to test (default: 600)"
    )
    parser.add_argument(
        "--seed", type=_natural, default=0, help="of all that is drawn (default: 0)"
    )
    parser.add_argument(
        "--height",
        type=_height,
        default=120,
        metavar="PX",
        help="of the pictures, 32 to 1080 (default: 120, which is enough for nano)",
    )
    parser.add_argument(
        "--varied",
        action="store_true",
        help="arm, mat, lights and camera poses differ from scene to scene (embodied)",
    )
    parser.add_argument(
        "--at-once",
        type=_share,
        default=0.3,
        metavar="SHARE",
        help="of places that follow the name at once, not later (mentions; default: 0.3)",
    )
    parser.add_argument("--workers", type=_workers, default=2, help="processes (default: 2)")
    parser.set_defaults(run=_questions)


def _questions(args: argparse.Namespace) -> int:
    from training.molmoer.question_set import SetSettings, write_question_set

    settings = SetSettings(
        args.kind, args.train, args.test, args.seed, args.height, args.varied, args.at_once
    )
    counts = write_question_set(args.out, settings, args.workers)
    kinds = sorted({kind for half in counts.values() for kind in half})
    print(f"{'kind':<16}{'train':>8}{'test':>8}")
    for kind in kinds:
        print(f"{kind:<16}{counts['train'][kind]:>8}{counts['test'][kind]:>8}")
    print(f"{'all':<16}{counts['train'].total():>8}{counts['test'].total():>8}")
    return 0


def _whole(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text}")
    return int(text)


def _count(text: str) -> int:
    return _whole(text, 1, 10_000_000)


def _natural(text: str) -> int:
    return _whole(text, 0, 2**31 - 1)


def _height(text: str) -> int:
    return _whole(text, 32, 1080)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, got {text}")
    return share


def _workers(text: str) -> int:
    return _whole(text, 1, 256)
