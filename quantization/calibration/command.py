"""`molmoact-quantize calibrate`, `compare` and `static`: what matrices meet, and what it is for."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from firmware_bridge.command_line import one_or_more, zero_or_more
from quantization.calibration.calibrate import SPANS, calibrate
from quantization.calibration.calibration_file import Calibration
from quantization.calibration.input_statistics import RANGES
from quantization.calibration.product_errors import product_errors, recipe_names
from quantization.calibration.static_bundle import build_static
from quantization.fidelity.observations import Sampling

_OBSERVATIONS = 96
_SPAN = 512
_CALIBRATE_EXAMPLE = """examples:
  molmoact-quantize build checkpoints/nano whole --recipe fp32
  molmoact-quantize calibrate whole calibration.safetensors --episodes data/demos
  molmoact-quantize build checkpoints/nano small --recipe int4 --calibration calibration.safetensors
"""
_COMPARE_EXAMPLE = """example:
  molmoact-quantize calibrate whole held_out.safetensors --episodes data/demos_held_out
  molmoact-quantize compare whole int4 int4-calibrated --inputs held_out.safetensors
"""
_STATIC_EXAMPLE = """example:
  .venv-calibration/bin/molmoact-quantize static whole static --episodes data/demos
"""


def add_calibrate(commands: argparse._SubParsersAction) -> None:
    """Describe the three commands."""
    command = commands.add_parser(
        "calibrate",
        help="record what every matrix is multiplied with, for 'build --calibration'",
        description="Play recorded observations to a full-precision bundle; write what each matrix "
        "was multiplied with: mean products, by which codes are chosen,\nand the range, "
        "which int8-static needs.",
        epilog=_CALIBRATE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("bundle", type=Path, help="the checkpoint's fp32 bundle")
    command.add_argument("out", type=Path, help="file to write; must not exist")
    _add_observations(command)
    command.add_argument(
        "--span",
        type=int,
        choices=SPANS,
        default=_SPAN,
        help=f"products are kept within that many inputs ({_SPAN}); 4 bytes a pair",
    )
    compare = commands.add_parser(
        "compare",
        help="how far each matrix's products are from full precision, on recorded inputs",
        epilog=_COMPARE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("whole", type=Path, help="the checkpoint's fp32 bundle")
    compare.add_argument("bundles", type=Path, nargs="+", help="bundles of the same checkpoint")
    compare.add_argument(
        "--inputs",
        type=Path,
        required=True,
        help="what 'calibrate' wrote, of episodes that no bundle was calibrated on",
    )
    compare.add_argument("--matrices", action="store_true", help="a line for each matrix as well")
    static = commands.add_parser(
        "static",
        help="static INT8 by optimum's ORTQuantizer (in the environment of make setup-calibration)",
        description="Quantise the graphs of a full-precision bundle that optimum's ORTQuantizer "
        "takes:\nvision, context, expert; not the decoder, which has branches.",
        epilog=_STATIC_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    static.add_argument("bundle", type=Path, help="the checkpoint's fp32 bundle")
    static.add_argument("out", type=Path, help="bundle to write; must not exist")
    _add_observations(static)


def run_calibrate(args: argparse.Namespace) -> int:
    """Run one of the commands; 0 on success, errors are raised."""
    if args.command == "compare":
        return _compare(args)
    started = time.monotonic()
    sampling = Sampling(samples=args.observations, seed=args.seed, held_out=False)
    with tqdm(total=args.observations, unit="call", leave=False, disable=None) as bar:
        given = {
            "sampling": sampling,
            "ranges": args.ranges,
            "norm_tag": args.norm_tag,
            "embodiment": args.embodiment,
            "threads": args.threads,
            "progress": bar.update,
        }
        if args.command == "calibrate":
            card = calibrate(args.bundle, args.episodes, args.out, span=args.span, **given)
            said = f"{card.observations} observations of {card.episodes}, ranges by {card.ranges}"
        else:
            said = build_static(args.bundle, args.episodes, args.out, **given)
    size_mib = sum(p.stat().st_size for p in (args.out, *args.out.rglob("*"))) / 2**20
    print(f"{args.out}: {said}, {size_mib:.1f} MiB, in {time.monotonic() - started:.1f} s")
    return 0


def _compare(args: argparse.Namespace) -> int:
    """Print the mean over each graph's matrices, and one JSON line last."""
    found = list(product_errors(args.whole, args.bundles, Calibration(args.inputs)))
    for number, (path, recipe) in enumerate(
        zip(args.bundles, recipe_names(args.bundles), strict=True), 1
    ):
        print(f"({number}) {path}: {recipe}")
    print("\nRMS error of the product over RMS of the product, mean over matrices")
    heads = "".join(f"{f'({number})':>12}" for number in range(1, len(args.bundles) + 1))
    print(f"{'':<40}{'matrices':>9}{heads}")
    graphs: dict[str, list[tuple[float, ...]]] = {}
    for entry in found:
        graphs.setdefault(entry.layer.split("/")[0], []).append(entry.errors)
        if args.matrices:
            errors = "".join(f"{error:>12.3%}" for error in entry.errors)
            print(f"{entry.layer:<40}{'':>9}{errors}")
    graphs["all"] = [entry.errors for entry in found]
    for graph, errors in graphs.items():
        means = "".join(f"{mean:>12.3%}" for mean in np.mean(errors, axis=0))
        print(f"{graph:<40}{len(errors):>9}{means}")
    print(json.dumps([asdict(entry) for entry in found]))
    return 0


def _add_observations(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--episodes",
        required=True,
        help="folder of a LeRobot v3 dataset, not the one that judges; or 'sim'",
    )
    command.add_argument(
        "--observations", type=one_or_more, default=_OBSERVATIONS, help=f"at most ({_OBSERVATIONS})"
    )
    command.add_argument("--seed", type=zero_or_more, default=0, help="of choice and noise (0)")
    command.add_argument(
        "--ranges",
        choices=RANGES,
        default="minmax",
        help="onnxruntime's method for the range of a static scale (minmax)",
    )
    command.add_argument("--norm-tag", help="needed when the bundle has several")
    command.add_argument(
        "--embodiment", default="so101", help="joint frame that the dataset was recorded in (so101)"
    )
    command.add_argument("--threads", type=one_or_more, help="of the engine (all cores)")
