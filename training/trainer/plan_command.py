"""molmoact-train plan: a dry run without weights."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from training.errors import TrainingError
from training.init.sizes import SIZES, size_by_name
from training.trainer.option_types import positive, whole

H100_GIB = 80.0
H100_TFLOPS = 989.0  # bf16, dense (NVIDIA H100 SXM data sheet)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    example = "molmoact-train plan training/recipes/full/expert.yaml --size full --devices 8"
    parser = commands.add_parser(
        "plan",
        help="compute what a recipe needs, without weights, and whether it fits",
        description="Print parameters, memory a device, work a step and the speed needed. Exits"
        " with 2 when a device cannot hold it, and says what would fit.",
        epilog=f"example: {example}",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a stage's YAML file")
    parser.add_argument(
        "--size",
        choices=tuple(SIZES),
        help="of the model (default: that of the checkpoint, or of 'init', in the recipe)",
    )
    parser.add_argument("--devices", type=whole, default=1, metavar="N", help="(default: 1)")
    parser.add_argument(
        "--memory-gib", type=positive, default=H100_GIB, metavar="G", help="a device (default: 80)"
    )
    parser.add_argument(
        "--peak-tflops",
        type=positive,
        default=H100_TFLOPS,
        metavar="T",
        help="a device's bf16 peak (default: 989, an H100's)",
    )
    parser.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="compute activations again in the backward pass",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe"
    )
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    # LeRobot's model calls what transformers 5 is about to rename.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from training.trainer.plan import Planner, fits
    from training.trainer.plan_table import plan_table
    from training.trainer.recipe import read_recipe
    from training.trainer.stage import existing_source

    recipe = read_recipe(args.recipe, args.set)
    recipe.examples_each(args.devices)
    if args.size is not None:
        model = size_by_name(args.size)
    elif recipe.start.init is not None:
        model = size_by_name(recipe.start.init)
    else:
        model = existing_source(recipe)
    planner = Planner(recipe, model)
    plan = planner.plan(args.devices, recompute=args.checkpoint_activations)
    print(plan_table(plan, recipe, memory_gib=args.memory_gib, peak_tflops=args.peak_tflops))
    if fits(plan, args.memory_gib):
        return 0
    remedies = "; ".join(
        planner.remedies(args.devices, args.checkpoint_activations, args.memory_gib)
    )
    raise TrainingError(
        f"{args.recipe} needs {plan.gib:.1f} GiB a device, {args.memory_gib:g} GiB are there."
        f" What fits: {remedies or 'nothing that this command knows; take larger devices'}"
    )
