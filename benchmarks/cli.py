"""`molmoact-bench`: figures about bundles, each with the machine it was measured on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.fidelity import compare_bundles, print_report
from edge.errors import EdgeError
from firmware_bridge.command_line import CommandParser

_EXAMPLE = """example:
  molmoact-quantize build checkpoints/nano whole --recipe fp32
  molmoact-quantize build checkpoints/nano small --recipe int4
  molmoact-bench fidelity small --against whole
"""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog="molmoact-bench",
        description="Measure bundles.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fidelity = commands.add_parser(
        "fidelity",
        help="how far a bundle's actions are from another's",
        description="Play the same synthetic observations to two bundles and compare what the arm "
        "would be told: action error per joint in its own unit, beside the spread that full "
        "precision itself shows from one noise seed to the next, and agreement of depth codes.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fidelity.add_argument("bundle", type=Path)
    fidelity.add_argument("--against", type=Path, required=True, help="usually the fp32 bundle")
    fidelity.add_argument("--samples", type=_count, default=30, help="observations (default 30)")
    fidelity.add_argument("--cameras", type=_count, default=2, help="if the tag leaves it open")
    fidelity.add_argument("--norm-tag", help="needed when the bundle has several")
    fidelity.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 on success, 2 when something is wrong with what was given."""
    args = build_parser().parse_args(argv)
    try:
        report = compare_bundles(
            args.bundle,
            args.against,
            samples=args.samples,
            cameras=args.cameras,
            norm_tag=args.norm_tag,
            seed=args.seed,
        )
    except EdgeError as error:
        print(f"molmoact-bench: error: {error}", file=sys.stderr)
        return 2
    print_report(report)
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
