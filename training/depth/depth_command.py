"""molmoact-train depth: fit a depth codec, annotate a dataset with it, say how good it all is.

molmoact-train depth fit data/depth_codec --data data/demos --steps 600
molmoact-train depth annotate data/demos --codec data/depth_codec --out data/demos_depth
molmoact-train depth report data/demos --codec data/depth_codec --out runs/depth_report.md
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from training.errors import TrainingError

PROGRAM = "molmoact-train depth"
_INTERVALS = (15, 1)
_TEACHER_HELP = (
    "where depth comes from: 'sim' (recorded beside the dataset), or the folder of a "
    "Depth-Anything-V2 model in transformers' layout (default: sim)"
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `depth` to the commands of molmoact-train."""
    depth = commands.add_parser(
        "depth",
        help="fit a depth codec, annotate a dataset, report",
        description="Depth codes: fit their codec, annotate a dataset, report how good it is.",
        epilog=f"example: {PROGRAM} fit data/depth_codec --data data/demos --steps 600",
    )
    parts = depth.add_subparsers(dest="part", required=True, metavar="PART")
    _add_fit(parts)
    _add_annotate(parts)
    _add_report(parts)


def _add_fit(parts: argparse._SubParsersAction) -> None:
    fit = parts.add_parser(
        "fit",
        help="fit the codec of depth pictures",
        description="Fit a VQ-VAE that turns a picture of depth into 10 x 10 of 128 codes.",
        epilog=f"example: {PROGRAM} fit data/depth_codec --data data/demos --steps 600",
    )
    fit.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    fit.add_argument("--data", type=Path, required=True, metavar="DATASET")
    fit.add_argument("--teacher", default="sim", metavar="T", help=_TEACHER_HELP)
    fit.add_argument("--camera", metavar="KEY", help="feature key (default: the first camera)")
    fit.add_argument("--steps", type=_whole, default=600, metavar="N", help="(default: 600)")
    fit.add_argument("--batch", type=_whole, default=16, metavar="N", help="crops (default: 16)")
    fit.add_argument(
        "--hidden",
        type=_whole,
        default=16,
        metavar="N",
        help="channels of the first layer; 16 as published, 8 is quicker (default: 16)",
    )
    fit.add_argument(
        "--frames", type=_whole, default=1500, metavar="N", help="drawn at most (default: 1500)"
    )
    fit.add_argument(
        "--stretch",
        choices=("frame", "dataset"),
        default="frame",
        help="pictures are stretched by the depth range of their frame, as published, or all by "
        "the range of the dataset, so that a carried code keeps its depth (default: frame)",
    )
    fit.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    fit.set_defaults(run=_fit)


def _add_annotate(parts: argparse._SubParsersAction) -> None:
    annotate = parts.add_parser(
        "annotate",
        help="write the codes of every frame to DATASET_depth",
        description="Write fresh and carried depth codes and change masks of every frame.",
        epilog=(
            f"example: {PROGRAM} annotate data/demos --codec data/depth_codec "
            "--out data/demos_depth --interval 15 --interval 1"
        ),
    )
    annotate.add_argument("dataset", type=Path, metavar="DATASET")
    annotate.add_argument("--codec", type=Path, required=True, metavar="VQVAE")
    annotate.add_argument("--out", type=Path, required=True, metavar="DATASET_depth")
    annotate.add_argument("--teacher", default="sim", metavar="T", help=_TEACHER_HELP)
    annotate.add_argument("--camera", metavar="KEY", help="feature key (default: the first camera)")
    annotate.add_argument(
        "--interval",
        type=_whole,
        action="append",
        metavar="N",
        help="frames between two calls of the policy; may be given again, the first is what "
        "training uses unless told otherwise (default: 15 and 1)",
    )
    annotate.add_argument(
        "--threshold",
        type=float,
        default=0.996,
        metavar="C",
        help="cosine below which a cell counts as changed; the runtime's is 0.996 (default: 0.996)",
    )
    annotate.add_argument("--workers", type=_whole, default=1, metavar="N", help="(default: 1)")
    annotate.set_defaults(run=_annotate)


def _add_report(parts: argparse._SubParsersAction) -> None:
    report = parts.add_parser(
        "report",
        help="depth error, cells changed per call, code accuracy",
        description="Measure codec, carried codes and, with a checkpoint, code accuracy.",
        epilog=(
            f"example: {PROGRAM} report data/demos --codec data/depth_codec "
            "--out runs/depth_report.md --checkpoint runs/nano/depth/checkpoint"
        ),
    )
    report.add_argument("dataset", type=Path, metavar="DATASET")
    report.add_argument("--codec", type=Path, required=True, metavar="VQVAE")
    report.add_argument("--out", type=Path, metavar="FILE.md", help="also write it; must not exist")
    report.add_argument("--teacher", default="sim", metavar="T", help=_TEACHER_HELP)
    report.add_argument("--camera", metavar="KEY", help="feature key (default: the first camera)")
    report.add_argument(
        "--episodes",
        type=_whole,
        default=10,
        metavar="N",
        help="looked at: the last N of the dataset (default: 10)",
    )
    report.add_argument("--checkpoint", type=Path, metavar="C", help="trained with depth")
    report.add_argument(
        "--annotations", type=Path, metavar="DATASET_depth", help="needed with --checkpoint"
    )
    report.add_argument(
        "--embodiment", default="so101", metavar="E", help="with --checkpoint (default: so101)"
    )
    report.add_argument(
        "--calls", type=_whole, default=20, metavar="N", help="with --checkpoint (default: 20)"
    )
    report.set_defaults(run=_report)


def _fit(args: argparse.Namespace) -> int:
    from training.datasets.dataset_files import open_dataset
    from training.depth.codec_fit import FitSettings, check_fit, collect_depth, fit_codec
    from training.depth.pictures import check_camera
    from training.depth.teacher import open_teacher
    from training.depth.vq_vae import CodecShape
    from training.errors import OutputExistsError

    if args.out.exists() or args.out.is_symlink():
        raise OutputExistsError(args.out)
    if not args.out.parent.is_dir():
        raise TrainingError(f"folder {args.out.parent} does not exist; create it first")
    shape = CodecShape(hidden=args.hidden)
    settings = FitSettings(steps=args.steps, batch_size=args.batch, seed=args.seed)
    check_fit(shape, settings, args.frames)
    dataset = open_dataset(args.data)
    camera = check_camera(dataset, args.camera)
    teacher = open_teacher(args.teacher, dataset, camera)
    started_s = time.monotonic()
    depth = collect_depth(
        dataset,
        camera,
        teacher,
        args.frames,
        shape.side_px,
        args.seed,
        common_limits=args.stretch == "dataset",
    )
    seconds = time.monotonic() - started_s
    print(f"{len(depth.pictures)} pictures of depth, {seconds:.0f} s", flush=True)
    codec, figures = fit_codec(depth, shape, settings, _step_lines(args.steps))
    about = {
        "dataset": args.data.resolve().name,
        "camera": camera,
        "teacher": teacher.name,
        "settings": asdict(settings),
        "figures": asdict(figures),
    }
    codec.save(args.out, about)
    print(
        f"error {figures.error_levels:.2f} of 255 (rms {figures.error_rms_levels:.2f}), "
        f"{figures.codes_used} of {shape.codes} codes used, perplexity {figures.perplexity:.1f}, "
        f"{time.monotonic() - started_s:.0f} s"
    )
    print(json.dumps({"codec": str(args.out), **asdict(figures)}))
    return 0


def _annotate(args: argparse.Namespace) -> int:
    from training.depth.annotate import AnnotateSettings, annotate_dataset

    settings = AnnotateSettings(
        dataset=args.dataset,
        codec=args.codec,
        teacher=args.teacher,
        camera=args.camera,
        intervals=tuple(args.interval or _INTERVALS),
        threshold=args.threshold,
    )
    started_s = time.monotonic()
    frames = 0

    def report(episode: int, count: int) -> None:
        nonlocal frames
        frames += count
        rate = frames / (time.monotonic() - started_s)
        print(f"episode {episode}: {count} frames, {rate:.0f} frames a second", flush=True)

    info = annotate_dataset(settings, args.out, args.workers, report)
    about = {"camera": info.camera, "intervals": info.intervals, "frames": frames}
    print(json.dumps({"annotations": str(args.out), **about}))
    return 0


def _report(args: argparse.Namespace) -> int:
    from training.depth.report import ReportSettings, depth_report

    if args.checkpoint is not None and args.annotations is None:
        raise TrainingError("--checkpoint needs --annotations, which says what is right")
    settings = ReportSettings(
        dataset=args.dataset,
        codec=args.codec,
        teacher=args.teacher,
        camera=args.camera,
        episodes=args.episodes,
        checkpoint=args.checkpoint,
        annotations=args.annotations,
        embodiment=args.embodiment,
        calls=args.calls,
    )
    text, figures = depth_report(settings, args.out)
    print(text)
    print(json.dumps(figures))
    return 0


def _step_lines(steps: int) -> Callable[[int, float], None]:
    """Print about twenty lines over a fit, each the mean since the last."""
    every = max(steps // 20, 1)
    losses: list[float] = []

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if not math.isfinite(loss):
            raise TrainingError(f"step {step}: the loss is {loss}; look at the dataset's depth")
        if (step + 1) % every == 0:
            print(f"step {step + 1} of {steps}  loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()

    return report


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text}: a whole number above 0 is needed")
    return int(text)
