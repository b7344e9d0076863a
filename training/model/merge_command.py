"""molmoact-train merge: a plain checkpoint of a run that trained LoRA adapters."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from training.errors import TrainingError

_EXAMPLE = "example: molmoact-train merge runs/nano/lora checkpoints/mine"


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "merge",
        help="add a run's LoRA adapters to the weights beside which they were trained",
        description="Write a plain checkpoint of a run that trained LoRA adapters: what "
        "molmoact-quantize reads, and other stages start from. Of a run without, write the "
        "checkpoint as bf16.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("adapted", type=Path, metavar="RUN", help="run, or its checkpoint folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="the checkpoint that was adapted (default: where it was then)",
    )
    parser.add_argument(
        "--dtype", default="fp32", choices=("fp32", "bf16"), help="of the file (default: fp32)"
    )
    parser.set_defaults(run=_merge)


def _merge(args: argparse.Namespace) -> int:
    from training.model.merged import write_merged

    inner = args.adapted / "checkpoint"
    folder = inner if inner.is_dir() else args.adapted
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; give a run of molmoact-train")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    write_merged(folder, args.out, args.dtype, args.base, command)
    print(f"{args.out}: {folder} with any adapters merged, {args.dtype}")
    return 0
