"""`molmoact-quantize build`: its words, and what they start."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

from tqdm import tqdm

from edge.manifest import ACTION_TOKENIZER, Manifest
from firmware_bridge.command_line import one_or_more, zero_or_more
from quantization.actions import CHOICES
from quantization.auto_recipe import AUTO, SAMPLES, AutoSettings, build_auto, ceiling_of
from quantization.build import build_bundle
from quantization.errors import BuildError
from quantization.recipes import RECIPES, parse_rule

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMG]|[KMG]i)?B?")
_EXAMPLE = """examples:
  molmoact-quantize build checkpoints/nano bundle --recipe int4 --set 'vision/*=int8'
  molmoact-quantize build checkpoints/nano bundle --recipe auto --max-bytes 3MiB --episodes sim
  molmoact-quantize build checkpoints/nano again --recipe bundle/manifest.json
"""


def add_build(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    build = commands.add_parser(
        "build",
        help="build a bundle from a checkpoint folder",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build.add_argument("checkpoint", type=Path, help="folder in the released layout")
    build.add_argument("bundle", type=Path, help="folder to write; must not exist")
    build.add_argument(
        "--recipe",
        required=True,
        help=f"how weights are stored: {', '.join(RECIPES)}; a YAML file of rules; the "
        "manifest.json of a bundle to build again; or 'auto', which measures what each matrix does "
        "to the actions and spends --max-bytes where it helps most",
    )
    build.add_argument(
        "--set",
        dest="rules",
        action="append",
        default=[],
        metavar="PATTERN=FORMAT",
        help="overrule the recipe for some matrices, for example 'vision/*=int8' or "
        "'decoder/blocks.0.*=int8-block32'; may be repeated, the last match decides",
    )
    build.add_argument(
        "--actions",
        choices=CHOICES,
        help="by the flow expert, as tokens, or both (default: all that the checkpoint can; "
        "tokens need a tokenizer)",
    )
    build.add_argument(
        "--action-tokenizer",
        type=Path,
        metavar="DIR",
        help=f"folder of the action tokenizer (default: CHECKPOINT/{ACTION_TOKENIZER}, if there)",
    )
    build.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="recorded inputs of each matrix, by which codes and static scales are chosen",
    )
    _add_auto(build.add_argument_group("with --recipe auto"))


def _add_auto(auto: argparse._ArgumentGroup) -> None:
    ceiling = auto.add_mutually_exclusive_group()
    ceiling.add_argument(
        "--max-bytes", type=_size, metavar="N", help="of all files: 3100000, 3.1MB, 2.5GiB"
    )
    ceiling.add_argument("--profile", help="what its board has for a bundle (bundle_mib)")
    auto.add_argument(
        "--episodes", help="folder of a LeRobot v3 dataset, or 'sim': what actions are measured on"
    )
    auto.add_argument(
        "--against", type=Path, metavar="WHOLE", help="the fp32 bundle, to not build it meanwhile"
    )
    auto.add_argument("--samples", type=one_or_more, help=f"observations (default {SAMPLES})")
    auto.add_argument("--seed", type=zero_or_more, help="of observations and noise (default 0)")
    auto.add_argument("--embodiment", help="the robot of a dataset (default so101)")
    auto.add_argument("--norm-tag", help="needed when the checkpoint has several")


def run_build(args: argparse.Namespace) -> Manifest:
    """Build with a progress bar where somebody watches; return the manifest.

    The bar counts bytes of the checkpoint read, and with an automatic recipe matrices measured.
    """
    names = ("actions", "action_tokenizer", "calibration")
    options = {name: getattr(args, name) for name in names}
    rules = [parse_rule(text) for text in args.rules]
    if args.recipe == AUTO:
        settings = _auto_settings(args)
        with tqdm(unit="matrix", leave=False, disable=None) as bar:

            def count(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return build_auto(args.checkpoint, args.bundle, settings, rules, _say, count, **options)
    _refuse_auto_options(args)
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=None) as bar:

        def advance(read_bytes: int, all_bytes: int) -> None:
            bar.total = all_bytes
            bar.update(read_bytes)

        return build_bundle(
            args.checkpoint,
            args.bundle,
            args.recipe,
            rules,
            report=bar.write,
            progress=advance,
            **options,
        )


def _auto_settings(args: argparse.Namespace) -> AutoSettings:
    if args.max_bytes is None and args.profile is None:
        raise BuildError("--recipe auto needs a ceiling; give --max-bytes N, or --profile P")
    if args.episodes is None:
        raise BuildError(
            "--recipe auto measures actions; give --episodes, a LeRobot v3 dataset or 'sim'"
        )
    given = {
        name: value
        for name in ("samples", "seed", "embodiment", "norm_tag", "against")
        if (value := getattr(args, name)) is not None
    }
    ceiling = ceiling_of(args.profile) if args.max_bytes is None else args.max_bytes
    return AutoSettings(ceiling, args.episodes, **given)


def _refuse_auto_options(args: argparse.Namespace) -> None:
    names = ("max_bytes", "profile", "episodes", "against", "samples", "seed", "norm_tag")
    for name in (*names, "embodiment"):
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise BuildError(f"{option} is for --recipe auto, not for {args.recipe}; leave it out")


def _say(line: str) -> None:
    print(f"molmoact-quantize: {line}", file=sys.stderr, flush=True)


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    size_bytes = float(found[1]) * _UNITS[found[2] or ""] if found else math.nan
    if not 1 <= size_bytes < 1 << 50:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 3100000, 3.1MB or 2.5GiB")
    return int(size_bytes)
