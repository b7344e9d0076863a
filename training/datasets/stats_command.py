"""molmoact-train stats: compute norm_stats.json over datasets.

molmoact-train stats data/demos --embodiment so101 --out data/norm_stats.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.datasets.embodiment import load_embodiment, shipped_embodiments
from training.whole_folder import refuse_taken

_EXAMPLE = "molmoact-train stats data/demos --embodiment so101 --out data/norm_stats.json"


def add_parser(commands: Any) -> None:
    """Add the command to the program's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "stats",
        help="compute norm_stats.json over LeRobot v3 datasets",
        description="Check LeRobot v3 datasets and compute norm_stats.json over all their frames.",
        epilog=f"example: {_EXAMPLE}",
    )
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="its folder")
    parser.add_argument(
        "--embodiment",
        required=True,
        metavar="NAME",
        help=f"one of: {', '.join(shipped_embodiments())}; or a .yaml path",
    )
    parser.add_argument(
        "--cameras",
        nargs="+",
        metavar="KEY",
        help="feature keys in prompt order (default: the embodiment's)",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="FILE",
        help="a norm_stats.json whose tags are kept beside the new one",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="to write; must not exist"
    )
    parser.set_defaults(run=_stats)


def _stats(args: argparse.Namespace) -> int:
    from training.datasets.norm_stats import dataset_stats, with_tags_of, write_norm_stats

    embodiment = load_embodiment(args.embodiment)
    refuse_taken(args.out)
    content = dataset_stats(args.datasets, embodiment, args.cameras)
    table = _table(content["metadata_by_tag"][embodiment.norm_tag])
    if args.beside is not None:
        content = with_tags_of(args.beside, content)
    write_norm_stats(content, args.out)
    print(f"{args.out}: tag {embodiment.norm_tag}\n{table}")
    return 0


def _table(tag: dict[str, Any]) -> str:
    columns = ("min", "q01", "q50", "q99", "max")
    rows = [f"{'':<30}{''.join(f'{name:>10}' for name in columns)}"]
    for kind in ("state_stats", "action_stats"):
        stats = tag[kind]
        for index, name in enumerate(stats["names"]):
            label = f"{kind.removesuffix('_stats')} {name}"
            label += "" if stats["mask"][index] else " (as is)"
            rows.append(f"{label:<30}{''.join(f'{stats[key][index]:>10.3f}' for key in columns)}")
    return "\n".join(rows)
