"""`molmoact-quantize`: checkpoints to bundles."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from edge.errors import EdgeError
from edge.manifest import Manifest
from firmware_bridge.command_line import CommandParser, quiet_when_unread
from quantization.build_command import add_build, run_build
from quantization.calibration.command import add_calibrate, run_calibrate
from quantization.errors import BuildError
from quantization.gate_command import add_gate, run_gate
from quantization.ladder_command import add_ladder, run_ladder
from quantization.verify import verify_bundle

_EXAMPLE = """example:
  molmoact-quantize build checkpoints/nano bundle --recipe int4
  molmoact-quantize build checkpoints/nano sharper --recipe int4 --set 'vision/*=int8'
  molmoact-quantize build checkpoint tokens --recipe int8 --actions discrete
  molmoact-quantize verify bundle
  molmoact-quantize gate bundle --against whole --episodes sim
  molmoact-quantize ladder bundle --profile my_board.yaml
  molmoact-quantize calibrate whole calibration.safetensors --episodes data/demos
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
    add_build(commands)
    verify = commands.add_parser("verify", help="check every digest and shape of a bundle")
    verify.add_argument("bundle", type=Path)
    add_gate(commands)
    add_calibrate(commands)
    add_ladder(commands)
    return parser


@quiet_when_unread
def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 on success, 2 when something is wrong with what was given.

    1 is a bundle that failed its gate, or has rungs that failed their trials.
    """
    args = build_parser().parse_args(argv)
    started = time.monotonic()
    try:
        if args.command == "gate":
            return run_gate(args)
        if args.command == "ladder":
            return run_ladder(args)
        if args.command in ("calibrate", "compare", "static"):
            return run_calibrate(args)
        if args.command == "build":
            manifest = run_build(args)
            done = "built"
        else:
            manifest = verify_bundle(args.bundle)
            done = "verified"
    except (BuildError, EdgeError, OSError) as error:
        print(f"molmoact-quantize: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("molmoact-quantize: interrupted; nothing was left behind", file=sys.stderr)
        return 130
    print(f"{args.bundle}: {done} in {time.monotonic() - started:.1f} s, {_summary(manifest)}")
    return 0


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
