"""`molmoact-bench predict`: what a model would take on boards that nobody needs to have."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.errors import PredictionError
from benchmarks.latency import FEWEST_REPEATS
from benchmarks.machine_limits import CPU
from benchmarks.predict import BoardPrediction, predict_board
from benchmarks.predict_check import check_machine, print_check
from benchmarks.predict_table import as_json, markdown_rows, print_board, print_boards
from benchmarks.workload import Workload, workload_of_config, workload_of_manifest
from edge.board_profile import load_board, shipped_boards
from edge.config_section import ProfileError
from edge.json_file import read_json
from edge.manifest import read_manifest
from edge.profile import load_profile
from edge.report import machine_name
from quantization.config import parse_config
from quantization.errors import BuildError
from training.init.checkpoint_config import model_config, processor_config
from training.init.sizes import SIZES, size_by_name

_MAX_CONFIG_BYTES = 1 << 20
_GIB = 2**30
_ROBOT = "so101"  # whose cameras and arm all boards are given
Parse = Callable[[str], Any]


def add_predict_command(
    commands: argparse._SubParsersAction, count: Parse, cameras: Parse, seconds: Parse
) -> None:
    """Add the command to the parser of `molmoact-bench`."""
    predict = commands.add_parser(
        "predict",
        help="what a model would take on a board: seconds, memory, replanning rate",
        description="Predict a call's stages from bytes and operations and a board's bandwidth and "
        "peaks, without running anything; a model that cannot fit is refused. With --this-machine "
        "predict and measure on the machine this runs on.",
        epilog="examples: molmoact-bench predict bundle --profile orin_nano_8gb_25w; "
        "molmoact-bench predict --size full --recipe int4 --all; "
        "molmoact-bench predict bundle other_bundle --this-machine",
    )
    predict.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE")
    predict.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="read its shapes only")
    predict.add_argument("--size", choices=sorted(SIZES), help="shapes of a known size")
    predict.add_argument("--recipe", help="that a build of --checkpoint or --size would have")
    predict.add_argument("--profile", help="a board in a power mode, or your robot's file")
    predict.add_argument("--all", action="store_true", help="every shipped board in a power mode")
    predict.add_argument("--markdown", action="store_true", help="with --all: a Markdown table")
    predict.add_argument(
        "--this-machine",
        action="store_true",
        help="predict, measure and compare bundles here, with the engine settings of --profile",
    )
    predict.add_argument(
        "--cameras",
        type=cameras,
        nargs="+",
        default=[1, 2],
        help="with --this-machine: numbers of cameras (default 1 2); else the profile's cameras",
    )
    predict.add_argument("--norm-tag", help="needed when the bundle has several")
    predict.add_argument(
        "--repeats",
        type=count,
        default=FEWEST_REPEATS,
        help=f"with --this-machine: counted calls a row (default {FEWEST_REPEATS})",
    )
    predict.add_argument("--seconds-per-row", type=seconds, metavar="S", help="end a row early")


def run_predict(args: argparse.Namespace) -> None:
    """Run the command; raises `EdgeError`."""
    if args.all and (args.profile or args.this_machine):
        raise PredictionError("--all is every board; leave --profile and --this-machine out")
    if args.this_machine:
        _check(args)
    elif args.all:
        _all(_workload(args), args.markdown)
    elif args.profile:
        _one(_workload(args), args.profile)
    else:
        raise PredictionError("for which board? give --profile, --all or --this-machine")


def configuration_of_size(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what config.json and processor_config.json of a known size hold, ids left out."""
    size = size_by_name(name)
    return model_config(size, _AnyTokenizer(), "bf16"), processor_config(size)


def _one(work: Workload, name: str) -> None:
    profile = load_profile(name)
    predicted = predict_board(work, profile.board, profile.cameras, profile.arm.action_hz)
    if predicted.units[CPU].fits is False:
        raise PredictionError(_refusal(work, predicted))
    print_board(predicted)
    print(json.dumps({"bench": "predict", "model": work.name, **as_json(predicted)}))


def _all(work: Workload, markdown: bool) -> None:
    predictions, refused = [], {}
    robot = load_profile(_ROBOT)
    for name in shipped_boards():
        try:
            board = load_board(name)
        except ProfileError as error:
            refused[name] = str(error).partition(" is refused: ")[2] or str(error)
            continue
        if board.hardware is not None and board.hardware.power_mode is not None:
            predictions.append(predict_board(work, board, robot.cameras, robot.arm.action_hz))
    if markdown:
        print("\n".join(markdown_rows(predictions)))
        return
    print_boards(predictions, refused)
    boards = [as_json(predicted) for predicted in predictions]
    print(json.dumps({"bench": "predict", "model": work.name, "boards": boards}))


def _check(args: argparse.Namespace) -> None:
    if not args.bundles or args.checkpoint or args.size:
        raise PredictionError("--this-machine measures bundles; give at least one, and no shapes")
    check = check_machine(
        args.bundles,
        profile=args.profile,
        cameras=args.cameras,
        norm_tag=args.norm_tag,
        repeats=args.repeats,
        seconds_per_row=args.seconds_per_row,
    )
    print_check(check, machine_name())
    rows = [{**asdict(row), "error": row.error} for row in check.rows]
    record = {"bench": "predict-check", "machine": machine_name(), "rows": rows}
    print(json.dumps({**record, "ceiling": asdict(check.ceiling)}))


def _workload(args: argparse.Namespace) -> Workload:
    sources = [*args.bundles, *filter(None, (args.checkpoint, args.size))]
    if len(sources) != 1:
        raise PredictionError(
            f"{len(sources)} models given; give one: BUNDLE, --checkpoint FOLDER or --size NAME"
        )
    if args.bundles:
        if args.recipe:
            raise PredictionError(
                "a bundle has its recipe; --recipe goes with --checkpoint, --size"
            )
        return workload_of_manifest(read_manifest(args.bundles[0]), str(args.bundles[0]))
    if args.recipe in (None, "auto"):
        problem = "auto chooses by measuring weights;" if args.recipe else "which recipe?"
        raise PredictionError(f"{problem} give --recipe int4, int8, int8-int4, fp32 or a file")
    name = args.size or str(args.checkpoint)
    try:
        return workload_of_config(parse_config(*_configuration(args)), args.recipe, name)
    except BuildError as error:
        raise PredictionError(str(error)) from None


def _configuration(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    if args.size:
        return configuration_of_size(args.size)
    paths = [args.checkpoint / name for name in ("config.json", "processor_config.json")]
    for path in paths:
        if not path.is_file():
            raise PredictionError(f"{path}: no such file; --checkpoint is a checkpoint's folder")
    contents = [read_json(path, _MAX_CONFIG_BYTES) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if not isinstance(content, dict):
            raise PredictionError(f"{path}: not a JSON object; copy the checkpoint again")
    return contents[0], contents[1]


class _AnyTokenizer:
    """Stands in for a tokenizer where only shapes count."""

    def token_to_id(self, token: str) -> int:
        """Return an id that nobody looks at."""
        del token
        return 0


def _refusal(work: Workload, predicted: BoardPrediction) -> str:
    usable = predicted.usable
    line = (
        f"{work.name} ({work.recipe}) needs {predicted.need.total / _GIB:.2f} GiB and board "
        f"{predicted.board} has {usable.value / 1024:.2f} usable ({usable.kind})"
    )
    if predicted.bundle_mib is not None:
        line += (
            f", {predicted.bundle_mib / 1024:.2f} of them for a bundle, of "
            f"{work.bundle_bytes / _GIB:.2f} here"
        )
    if predicted.fitting_recipe is None:
        return f"{line}; no shipped recipe fits, take a board with more memory"
    fitting = predicted.fitting_recipe
    return f"{line}; recipe {fitting} would fit: 'molmoact-quantize build ... --recipe {fitting}'"
