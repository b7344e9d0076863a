"""`molmoact-bench compare`: its words, and the table it prints."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from benchmarks.compare import (
    ACROSS,
    FAIL_OVER_PERCENT,
    VERDICTS,
    Change,
    Comparison,
    compare_reports,
)
from benchmarks.profile_report import read_profile_report

EXIT_REGRESSION = 1
_MOST_PERCENT = 1000.0


def add_compare_command(commands: argparse._SubParsersAction) -> None:
    """Describe the sub-command."""
    compare = commands.add_parser(
        "compare",
        help="what became slower between two profiles, beyond the noise",
        description="Compare two reports of 'molmoact-bench profile', or the folders they lie in. "
        "They must be of one machine in one power mode, one bundle and one profile. Exit code 1 "
        "when something became worse by more than the percentage, with the noise of the repeats "
        "taken into account.",
        epilog="example: molmoact-bench compare before after --fail-over 5",
    )
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument(
        "--fail-over",
        type=_percent,
        default=FAIL_OVER_PERCENT,
        metavar="PERCENT",
        help=f"a change of up to so much is none (default {FAIL_OVER_PERCENT:g})",
    )
    compare.add_argument(
        "--across",
        choices=ACROSS,
        action="append",
        default=[],
        help="compare although these differ; may be given several times",
    )


def run_compare(args: argparse.Namespace) -> int:
    """Compare and print; 1 when something became worse, raises `EdgeError`."""
    comparison = compare_reports(
        read_profile_report(args.before),
        read_profile_report(args.after),
        fail_over_percent=args.fail_over,
        across=args.across,
    )
    print_comparison(comparison)
    return EXIT_REGRESSION if comparison.worse else 0


def print_comparison(comparison: Comparison) -> None:
    """Print cards, cautions, the table and, last, one JSON line."""
    sides = comparison.machine
    print(f"measured on {sides['before']}")
    if sides["after"] != sides["before"]:
        print(f"and on      {sides['after']}")
    for line in comparison.differs:
        print(f"differs: {line}")
    for line in comparison.cautions:
        print(f"caution: {line}")
    print(
        f"\nworse or better: by more than {comparison.fail_over_percent:g} %, as sure as "
        f"{comparison.confidence:.2%} intervals of the ratio of medians are"
    )
    print(f"{'':<34}{'before':>10}{'after':>10}{'change':>12}{'from':>12}{'to':>12}  verdict")
    for change in comparison.changes:
        print(_line(change))
    counts = Counter(change.verdict for change in comparison.changes)
    listed = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    print(f"\n{listed}")
    print(json.dumps(comparison.as_json()))


def _line(change: Change) -> str:
    percents = "".join(
        f"{'-' if value is None else format(value, '+.1f') + ' %':>12}"
        for value in (change.percent, change.low_percent, change.high_percent)
    )
    note = f" ({change.note})" if change.note else ""
    name = f"{change.name}, {change.unit}"
    return (
        f"{name:<34}{change.before:>10.2f}{change.after:>10.2f}{percents}  {change.verdict}{note}"
    )


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= _MOST_PERCENT:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage of 0..{_MOST_PERCENT:g}")
    return percent
