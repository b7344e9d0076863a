"""molmoact-train openfast: fit action tokenizers on datasets, and say how good they are.

molmoact-train openfast fit data/openfast --data data/demos:so101 --chunks 20000
molmoact-train openfast report data/openfast --data data/demos:so101
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

_DATA = "FOLDER:EMBODIMENT[:WEIGHT]"
_EXAMPLE = "molmoact-train openfast fit data/openfast --data data/demos:so101 --chunks 20000"


def add_parser(commands: Any) -> None:
    """Add `openfast` and its own commands."""
    parser = commands.add_parser(
        "openfast",
        help="fit or measure an action tokenizer",
        description="Fit an OpenFAST action tokenizer, or say how good one is.",
        epilog=f"example: {_EXAMPLE}",
    )
    own = parser.add_subparsers(dest="openfast_command", required=True, metavar="COMMAND")
    _add_fit(own)
    _add_report(own)
    _add_synthetic(own)


def _add_fit(commands: Any) -> None:
    parser = commands.add_parser(
        "fit",
        help="fit a tokenizer on the actions of datasets",
        description="Fit a tokenizer on chunks drawn from LeRobot v3 datasets; every tenth "
        "episode is left for `report`.",
        epilog=f"example: {_EXAMPLE}",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    _add_data(parser)
    parser.add_argument(
        "--vocab", type=_count, default=2048, metavar="N", help="tokens (default: 2048)"
    )
    parser.add_argument(
        "--scale",
        type=_positive,
        default=10.0,
        metavar="S",
        help="steps of a coefficient per unit; more is finer and longer (default: 10)",
    )
    _add_draw(parser, 1_000_000, "chunks to fit on (default: 1000000)")
    parser.set_defaults(run=_fit)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="measure a tokenizer beside others",
        description="Print tokens a chunk, error and undecodable share of a tokenizer on held-out "
        "episodes, beside one padded to 32 dims, one fitted to each robot, and 256-bin tokens.",
        epilog="example: molmoact-train openfast report data/openfast --data data/demos:so101",
    )
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER", help="folder of a tokenizer")
    _add_data(parser)
    parser.add_argument(
        "--fit-chunks",
        type=_count,
        default=20_000,
        metavar="N",
        help="chunks to fit the others on; as many as TOKENIZER had, to be fair (default: 20000)",
    )
    _add_draw(parser, 1000, "held-out chunks of each dataset (default: 1000)")
    parser.set_defaults(run=_report)


def _add_synthetic(commands: Any) -> None:
    parser = commands.add_parser(
        "synthetic",
        help="write datasets of made-up motions, to try the other two",
        description="Write LeRobot v3 datasets of made-up motions of four robots, actions alone.",
        epilog="example: molmoact-train openfast synthetic data/synthetic --episodes 100",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument(
        "--episodes", type=_count, default=100, metavar="N", help="of each robot (default: 100)"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of the motions (default: 0)")
    parser.set_defaults(run=_synthetic)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar=_DATA,
        help="datasets, each with its robot's preset and its weight in the draw (default: 1)",
    )
    parser.add_argument(
        "--norm-stats",
        type=Path,
        metavar="FILE",
        help="norm_stats.json to normalise by (default: each dataset's own q01 and q99)",
    )


def _add_draw(parser: argparse.ArgumentParser, chunks: int, help_text: str) -> None:
    parser.add_argument("--chunks", type=_count, default=chunks, metavar="N", help=help_text)
    parser.add_argument("--seed", type=_seed, default=0, help="of the draw (default: 0)")
    parser.add_argument(
        "--workers",
        type=_count,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: one a core)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="of a Ray cluster that sees the same folders, instead of --workers",
    )


def _fit(args: argparse.Namespace) -> int:
    from training.openfast.draw import open_sources
    from training.openfast.report import fit_on_sources
    from training.openfast.runners import open_runner
    from training.whole_folder import refuse_taken

    refuse_taken(args.out)
    began = time.monotonic()
    sources = open_sources(args.data, args.norm_stats)
    with open_runner(args.workers, args.ray) as runner:
        fitted = fit_on_sources(sources, args.chunks, args.seed, runner, args.scale, args.vocab)
    fitted.save(args.out)
    print(
        f"{args.out}: {fitted.tokenizer.get_vocab_size()} tokens from {args.chunks} chunks, "
        f"coefficients {fitted.range.low} to {fitted.range.high}, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0


def _report(args: argparse.Namespace) -> int:
    from training.openfast.draw import open_sources
    from training.openfast.open_tokenizer import open_tokenizer
    from training.openfast.report import joints_table, make_report, tokens_table
    from training.openfast.runners import open_runner

    tokens = open_tokenizer(args.tokenizer)
    sources = open_sources(args.data, args.norm_stats)
    with open_runner(args.workers, args.ray) as runner:
        rows = make_report(
            tokens,
            sources,
            chunks=args.chunks,
            fit_chunks=args.fit_chunks,
            seed=args.seed,
            runner=runner,
        )
    print(f"{tokens_table(rows)}\n\n{joints_table(rows)}")
    return 0


def _synthetic(args: argparse.Namespace) -> int:
    from training.openfast.synthetic import write_synthetic

    for folder in write_synthetic(args.out, args.episodes, args.seed):
        print(folder)
    return 0


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, got {text}")
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value
