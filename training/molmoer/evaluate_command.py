"""molmoact-train evaluate: how many questions a checkpoint answers rightly."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.molmoer.scoring import Score

_EXAMPLE = (
    "example: molmoact-train evaluate runs/nano/specialise/checkpoint "
    "--questions data/questions/embodied/test"
)


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "evaluate",
        help="ask a checkpoint questions and count the right answers",
        description="Ask a checkpoint the questions of a folder, greedily, and give the share of "
        "right answers for every kind with its 95 % interval. The last line is JSON.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--questions", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=_count, metavar="N", help="ask only N, evenly spread")
    parser.add_argument(
        "--batch", type=_count, default=32, metavar="N", help="questions at once (default: 32)"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32"
    )
    parser.set_defaults(run=_evaluate)


def evaluate(
    checkpoint: Path,
    questions: Path,
    *,
    limit: int | None = None,
    batch: int = 32,
    precision: str = "fp32",
) -> tuple[dict[str, Score], float]:
    """Ask and count; give the scores by kind and the seconds that the answers took.

    Raises `TrainingError` for a folder that holds no questions or no checkpoint.
    """
    import torch

    from training.molmoer.answers import Answerer
    from training.molmoer.scoring import read_asked, score

    asked = read_asked(questions, limit)
    asked.sort(key=lambda one: (len(one.question.images), len(one.question.question)))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    answerer = Answerer(checkpoint, dtype)
    started = time.monotonic()
    answers: list[str] = []
    for start in range(0, len(asked), batch):
        answers += answerer.answers([one.question for one in asked[start : start + batch]])
    return score(asked, answers), time.monotonic() - started


def _evaluate(args: argparse.Namespace) -> int:
    scores, seconds = evaluate(
        args.checkpoint,
        args.questions,
        limit=args.limit,
        batch=args.batch,
        precision=args.precision,
    )
    print(f"{'kind':<16}{'right':>7}{'asked':>7}{'accuracy':>10}   95 % interval")
    for kind, one in scores.items():
        low, high = one.interval
        print(
            f"{kind:<16}{one.right:>7}{one.asked:>7}{100 * one.accuracy:>8.1f} %"
            f"   {100 * low:.1f} to {100 * high:.1f} %"
        )
    record = {
        "checkpoint": str(args.checkpoint),
        "questions": str(args.questions),
        "questions_per_minute": round(60 * scores["all"].asked / seconds),
        "kinds": {kind: as_record(one) for kind, one in scores.items()},
    }
    print(json.dumps(record))
    return 0


def as_record(one: Score) -> dict[str, float]:
    """Write a score as JSON has it."""
    low, high = one.interval
    return {
        "right": one.right,
        "asked": one.asked,
        "accuracy": round(one.accuracy, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)
