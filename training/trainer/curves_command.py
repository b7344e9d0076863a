"""molmoact-train curves: the losses of a chain of runs in one picture and one table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import one_line
from training.errors import OutputExistsError, TrainingError

_FIGURES = ("step", "step_s", "loss", "language", "flow")
_EXAMPLE = "example: molmoact-train curves chain.png runs/nano/discrete runs/nano/expert"


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "curves",
        help="draw the losses of runs that followed each other, and print where each ended",
        description="Draw the losses of runs one after the other, and print a table: steps, "
        "minutes that the steps took, and the losses at the end (mean of the last twentieth).",
        epilog=_EXAMPLE,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="PNG to write; must not exist")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--title", default="losses of the chain")
    parser.set_defaults(run=_curves)


def _curves(args: argparse.Namespace) -> int:
    from training.trainer.curves import draw_chain

    if args.out.exists():
        raise OutputExistsError(args.out)
    logs = {run.name: _read(run) for run in args.runs}
    if len(logs) < len(args.runs):
        raise TrainingError("two runs have the same name; give each once")
    draw_chain(logs, args.out, args.title)
    print("| stage | steps | minutes | language | flow |\n|---|--:|--:|--:|--:|")
    for name, log in logs.items():
        minutes = sum(entry["step_s"] for entry in log) / 60.0
        ends = " | ".join(_end(log, part) for part in ("language", "flow"))
        print(f"| {name} | {len(log)} | {minutes:.1f} | {ends} |")
    return 0


def _read(run: Path) -> list[dict]:
    from training.trainer.run_log import read_log

    path = run / "log.jsonl"
    if not path.is_file():
        raise TrainingError(f"{path}: no such file; give the folder of a run of molmoact-train")
    try:
        log = read_log(path)
        numbers = np.array([[entry[figure] for figure in _FIGURES] for entry in log], float)
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: not the log of a run ({one_line(error)})") from None
    if not numbers.size:
        raise TrainingError(f"{path}: no steps in it; let the run do some first")
    return log


def _end(log: list[dict], part: str) -> str:
    from training.trainer.curves import smoothed

    values = np.array([entry[part] for entry in log], float)
    return f"{smoothed(values)[-1]:.3g}" if values.any() else "-"
