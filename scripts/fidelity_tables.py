"""The tables of docs/fidelity.md from the reports that scripts/fidelity_tables.sh made.

python scripts/fidelity_tables.py FOLDER BUNDLE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MIB = 1 << 20
KINDS = ("touch", "put_in_bin", "push_to_mark")
ABLATIONS = (
    ("depth-full", "incremental depth", "every cell predicted"),
    ("depth-off", "incremental depth", "no depth"),
    ("chunking-off", "real-time chunking", "without"),
)
BUNDLE_COLUMNS = (
    "bundle",
    "MiB",
    "ms a call",
    "tip, mm mean (p95)",
    "depth codes equal",
    "touch",
    "put in bin",
    "push to mark",
    "named cube",
    "minus fp32, points (95 %)",
)
ABLATION_COLUMNS = (
    "with",
    "without",
    "success with",
    "success without",
    "difference, points (95 %)",
    "seams with / without, deg/s",
    "jerk with / without, deg/s³",
    "cells asked again",
)


def main(folder: Path, bundles: list[str]) -> None:
    """Print every table."""
    reports = {name: _read(folder / f"{name}.json") for name in bundles}
    print(_heading(BUNDLE_COLUMNS))
    for name, report in reports.items():
        _print_bundle(name, report, _call_ms(folder / f"{name}.latency"))
    whole = reports[bundles[0]]["closed_loop"]["other_noise_figures"]
    print(f"| other noise | | | | | {_successes(whole)} | |\n")
    print(_heading(ABLATION_COLUMNS))
    for name, with_, without in ABLATIONS:
        _print_ablation(with_, without, _read(folder / f"{name}.json")["closed_loop"])


def _heading(columns: tuple[str, ...]) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def _print_bundle(name: str, report: dict[str, Any], call_ms: float) -> None:
    card, open_loop, closed = (
        report["open_loop"]["bundle"],
        report["open_loop"],
        report["closed_loop"],
    )
    tip = open_loop["tip_mm"]["error"]
    print(
        f"| `{name}` | {card['size_bytes'] / MIB:.2f} | {call_ms:.0f} | {tip['mean']:.1f} "
        f"({tip['p95']:.1f}) | {open_loop['depth_codes_equal']:.0%} | "
        f"{_successes(closed['figures'])} | {_difference(closed['difference'])} |"
    )


def _print_ablation(with_: str, without: str, closed: dict[str, Any]) -> None:
    ours, theirs = closed["figures"], closed["against_figures"]
    pairs = ("seam_velocity_deg_s", "jerk_deg_s3")
    smooth = " | ".join(f"{ours[name]:.1f} / {theirs[name]:.1f}" for name in pairs)
    print(
        f"| {with_} | {without} | {_share(ours['success'])} | {_share(theirs['success'])} | "
        f"{_difference(closed['difference'])} | {smooth} | {ours['changed_share']:.0%} |"
    )


def _successes(figures: dict[str, Any]) -> str:
    return " | ".join(
        map(_share, [*(figures["by_kind"][kind] for kind in KINDS), figures["named"]])
    )


def _share(share: dict[str, Any]) -> str:
    return f"{share['share']:.0%} ({100 * share['low']:.0f} to {100 * share['high']:.0f})"


def _difference(difference: dict[str, Any]) -> str:
    middle, low, high = (100 * difference[key] for key in ("difference", "low", "high"))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


def _call_ms(path: Path) -> float:
    report = json.loads(path.read_text("utf-8").splitlines()[-1])
    return report["rows"][0]["call_ms"]["p50"]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
