"""molmoact-train demos: record scripted demonstrations in the simulated world."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge.observation import DEPTH_MODES
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.demonstrations.recording import Report
    from training.demonstrations.worker import Recorded

EXAMPLE = "molmoact-train demos data/demos --episodes 200 --seed 0 --size 240x180 --workers 2"
DEFAULT_SIZE = "320x240"
KINDS = ("touch", "put_in_bin", "push_to_mark")
STARTS = ("folded", "somewhere", "missed", "after")
MAX_EPISODES = 1_000_000
MAX_WORKERS = 256
MAX_EVERY = 30
INTERRUPTED = 130


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "demos",
        help="record scripted demonstrations in the simulated world as a LeRobot v3 dataset",
        description="Record scripted demonstrations of an SO-101 on the simulated desk as a "
        "LeRobot v3 dataset: front and wrist camera at 30 Hz, present positions, goals, "
        "instructions, and the true depth of the front camera. Only successes are kept.",
        epilog=f"example: {EXAMPLE}",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--episodes", type=_count(MAX_EPISODES), required=True, metavar="N")
    parser.add_argument("--seed", type=_seed, required=True, help="the same seed, the same dataset")
    parser.add_argument(
        "--size", default=DEFAULT_SIZE, metavar="WxH", help=f"pictures (default {DEFAULT_SIZE})"
    )
    parser.add_argument(
        "--workers",
        type=_count(MAX_WORKERS),
        default=2,
        metavar="N",
        help="processes that simulate (default 2); the dataset does not depend on it",
    )
    parser.add_argument(
        "--tasks",
        type=_kinds,
        default=KINDS,
        metavar="T,...",
        help=f"which, in turns (default {','.join(KINDS)})",
    )
    parser.add_argument("--plain", action="store_true", help="no variation of colours and cameras")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="layouts and phrasings that no other recording has, for evaluation",
    )
    parser.add_argument(
        "--light-only",
        action="store_true",
        help="vary the light and the shades, not colours, things and cameras",
    )
    parser.add_argument(
        "--every",
        type=_count(MAX_EVERY),
        default=1,
        metavar="N",
        help="take pictures at every N-th tick, and with each the goals of the next second "
        "(feature action.chunk); N must divide 30 (default 1)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="BUNDLE",
        help="a bundle that drives; recorded is what the expert would do in its place, success or "
        "not",
    )
    parser.add_argument(
        "--depth",
        choices=DEPTH_MODES,
        default="off",
        help="how the policy is asked for depth (default off)",
    )
    parser.add_argument(
        "--other-tasks",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="the chance of a picture to come with another instruction than that being followed, "
        "and with what the expert would do for it (default 0)",
    )
    parser.add_argument(
        "--beginnings",
        action="store_true",
        help="no task is done: the arm goes anywhere, and each picture comes once for every cube, "
        "with what the expert would begin to do",
    )
    parser.add_argument(
        "--recoveries",
        action="store_true",
        help="no task is done: the arm goes astray near a cube, and what is recorded is how the "
        "expert mends that, five times an episode",
    )
    parser.add_argument(
        "--starts",
        type=_starts,
        metavar="NAME=SHARE,...",
        help="where the arm begins: folded, somewhere above the desk, beside a cube it missed, or "
        "after something else was done (default folded=0.55,somewhere=0.25,missed=0.2)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        from sim.camera_process import parse_size
        from training.demonstrations.recording import record_demonstrations
        from training.demonstrations.worker import FPS, Settings
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"recording needs {error.name}; install it with "
            "pip install 'molmoact-edge[workstation]'"
        ) from error
    try:
        size = parse_size(args.size)
    except ValueError as error:
        raise TrainingError(f"--size: {error}") from error
    if size[0] % 2 or size[1] % 2:
        raise TrainingError(f"--size {args.size}: video needs even sides")
    if FPS % args.every:
        raise TrainingError(f"--every {args.every}: it must divide {FPS}, the ticks a second")
    for name in ("beginnings", "recoveries"):
        if getattr(args, name) and (args.policy or args.other_tasks or args.starts):
            raise TrainingError(
                f"--{name} does no task; leave out --policy, --other-tasks and --starts"
            )
    if args.beginnings and args.recoveries:
        raise TrainingError("--beginnings and --recoveries: give one of them")
    if args.policy is not None:
        _check_bundle(args.policy, args.depth)
    elif args.depth != "off":
        raise TrainingError(f"--depth {args.depth}: no policy is asked; give --policy")
    settings = Settings(
        args.seed,
        size,
        args.tasks,
        not args.plain,
        args.held_out,
        light_only=args.light_only,
        every=args.every,
        other_tasks=args.other_tasks,
        policy=args.policy,
        depth=args.depth,
        beginnings=args.beginnings,
        recoveries=args.recoveries,
    )
    if args.starts is not None:
        settings = replace(settings, starts=args.starts)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started_s = time.monotonic()
    progress = _Progress(args.episodes)
    try:
        report = record_demonstrations(
            args.out,
            args.episodes,
            settings,
            workers=min(args.workers, args.episodes),
            on_episode=progress.show,
        )
    except KeyboardInterrupt:
        print(f"\nstopped; {args.out} was not written", file=sys.stderr)
        return INTERRUPTED
    finally:
        progress.close()
    print(_table(report, time.monotonic() - started_s))
    return 0


def _check_bundle(bundle: Path, depth: str) -> None:
    from edge.bundle import open_bundle
    from edge.errors import EdgeError

    try:
        model = open_bundle(bundle).manifest.model
    except EdgeError as error:
        raise TrainingError(f"--policy: {error}") from error
    if depth != "off" and not model.depth_cells:
        raise TrainingError(f"--depth {depth}: {bundle} has no depth tokens; leave it out")


class _Progress:
    """A bar at a terminal, and a line an episode above it."""

    def __init__(self, episodes: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=episodes, unit="episode", disable=None, leave=False)

    def show(self, episode: Recorded) -> None:
        plan = episode.plan
        notes = [] if episode.succeeded else ["not done"]
        notes += [f"start {plan.start}"]
        notes += [f"disturbed {plan.disturbance:.1f}"] if plan.disturbance else []
        notes += [f"{episode.attempts} attempts"] if episode.attempts > 1 else []
        notes += [f"{episode.thrown_away} thrown away"] if episode.thrown_away else []
        self._bar.write(
            f"episode {episode.number:5d}  {episode.frames:4d} frames  {episode.wall_s:5.1f} s  "
            f"{plan.instruction!r} ({', '.join(notes)})"
        )
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def _table(report: Report, wall_s: float) -> str:
    episodes = report.episodes
    tried = len(episodes) + report.thrown_away
    frames = sum(episode.frames for episode in episodes)
    kinds = Counter(episode.plan.task.kind for episode in episodes)
    total_bytes = sum(report.bytes.values())
    done = sum(episode.succeeded for episode in episodes)
    rows = [
        ("episodes", f"{len(episodes)}  ({', '.join(f'{n} {k}' for k, n in kinds.items())})"),
        ("successes", f"{100.0 * done / tried:.1f} %  of {tried}"),
        ("frames", f"{frames:,}  ({frames / len(episodes):.0f} an episode)"),
        *((f"bytes, {part}", f"{size:,}") for part, size in report.bytes.items()),
        ("bytes an episode", f"{total_bytes // len(episodes):,}"),
        ("seconds", f"{wall_s:.0f}  ({wall_s / len(episodes):.2f} an episode)"),
    ]
    return "\n".join(f"{name:<18}{value}" for name, value in rows)


def _count(most: int):  # noqa: ANN202
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text}: a whole number, 1..{most}, is needed")
        return int(text)

    return parse


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: a whole number of 0 or more is needed")
    return int(text)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r}; known: {', '.join(KINDS)}")
    return kinds


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text}: a share, 0..1, is needed")
    return share


def _starts(text: str) -> tuple[tuple[str, float], ...]:
    shares = dict.fromkeys(STARTS, 0.0)
    for part in text.split(","):
        name, _, share = part.partition("=")
        if name not in shares:
            raise argparse.ArgumentTypeError(f"{name!r}; known: {', '.join(STARTS)}")
        try:
            shares[name] = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=SHARE") from None
    total = math.fsum(shares.values())
    if min(shares.values()) < 0 or not 0 < total < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: shares are 0 or more, and not all 0")
    return tuple((name, share / total) for name, share in shares.items())
