"""`molmoact-quantize`: checkpoints to bundles."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from edge.errors import BundleError
from edge.manifest import ACTION_TOKENIZER, Manifest
from firmware_bridge.command_line import CommandParser
from quantization.actions import CHOICES
from quantization.build import build_bundle
from quantization.errors import BuildError
from quantization.recipes import RECIPES, parse_rule
from quantization.verify import verify_bundle

_EXAMPLE = """example:
  molmoact-quantize build checkpoints/nano bundle --recipe int4
  molmoact-quantize build checkpoints/nano sharper --recipe int4 --set 'vision/*=int8'
  molmoact-quantize build checkpoint tokens --recipe int8 --actions discrete
  molmoact-quantize verify bundle
"""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog="molmoact-quantize",
        description="Turn a MolmoAct2 checkpoint into a bundle that a robot can run.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build a bundle from a checkpoint folder")
    build.add_argument("checkpoint", type=Path, help="folder in the released layout")
    build.add_argument("bundle", type=Path, help="folder to write; must not exist")
    build.add_argument(
        "--recipe",
        required=True,
        help=f"how weights are stored: {', '.join(RECIPES)}, or a YAML file of rules",
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
    verify = commands.add_parser("verify", help="check every digest and shape of a bundle")
    verify.add_argument("bundle", type=Path)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 on success, 2 when something is wrong with what was given."""
    args = build_parser().parse_args(argv)
    started = time.monotonic()
    try:
        if args.command == "build":
            manifest = _build(args)
            done = "built"
        else:
            manifest = verify_bundle(args.bundle)
            done = "verified"
    except (BuildError, BundleError, OSError) as error:
        print(f"molmoact-quantize: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("molmoact-quantize: interrupted; nothing was left behind", file=sys.stderr)
        return 130
    print(f"{args.bundle}: {done} in {time.monotonic() - started:.1f} s, {_summary(manifest)}")
    return 0


def _build(args: argparse.Namespace) -> Manifest:
    """Build with a progress bar where somebody watches; it counts bytes of the checkpoint read."""
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=None) as bar:

        def advance(read_bytes: int, all_bytes: int) -> None:
            bar.total = all_bytes
            bar.update(read_bytes)

        rules = [parse_rule(text) for text in args.rules]
        return build_bundle(
            args.checkpoint,
            args.bundle,
            args.recipe,
            rules,
            report=bar.write,
            progress=advance,
            actions=args.actions,
            action_tokenizer=args.action_tokenizer,
        )


def _summary(manifest: Manifest) -> str:
    layers = manifest.recipe.layers.values()
    weights = sum(layer.weights for layer in layers)
    bits = 8 * sum(layer.size_bytes for layer in layers) / max(weights, 1)
    total_mib = sum(entry.size_bytes for entry in manifest.files.values()) / 2**20
    error, rounded = (
        100 * (sum(layer.weights * e**2 for layer, e in errors) / max(weights, 1)) ** 0.5
        for errors in (
            [(layer, layer.relative_error) for layer in layers],
            [(layer, layer.rounding_error) for layer in layers],
        )
    )
    return (
        f"recipe {manifest.recipe.name}, {weights / 1e6:.2f} M weights at {bits:.2f} bits, "
        f"{total_mib:.1f} MiB, weight error {error:.2f} % RMS (plain rounding {rounded:.2f} %), "
        f"{' and '.join(manifest.model.actions)} actions"
    )


if __name__ == "__main__":
    sys.exit(main())
