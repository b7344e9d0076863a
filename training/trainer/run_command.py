"""molmoact-train run: train a stage."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from training.trainer.option_types import whole, whole_or_zero


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    example = "molmoact-train run training/recipes/nano/expert.yaml --out runs/nano/expert"
    parser = commands.add_parser(
        "run",
        help="train a stage from its recipe",
        description="Train a stage. On several GPUs: accelerate launch --config_file"
        " training/recipes/accelerate_fsdp.yaml -m training.cli run RECIPE --out RUN.",
        epilog=f"example: {example}",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="the stage's YAML file")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe"
    )
    parser.add_argument(
        "--keep", type=whole, default=2, metavar="N", help="states to keep (default: 2)"
    )
    parser.add_argument(
        "--workers",
        type=whole_or_zero,
        default=1,
        metavar="N",
        help="processes that make batches ahead; 0: none (default: 1)",
    )
    parser.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="compute activations again in the backward pass, for less memory",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # LeRobot's model calls what transformers 5 is about to rename.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from training.trainer.recipe import read_recipe
    from training.trainer.run import RunOptions, run_recipe

    recipe = read_recipe(args.recipe, args.set)
    options = RunOptions(
        resume=args.resume,
        keep=args.keep,
        workers=args.workers,
        recompute=args.checkpoint_activations,
    )
    if run_recipe(recipe, args.out, options):
        print(args.out / "checkpoint")
    return 0
