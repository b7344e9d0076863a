"""`molmoact-quantize gate`: judge a bundle against full precision, on episodes and by trials."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from edge.gate_entry import PASSED, check_text, standing
from edge.manifest import CONTINUOUS, DISCRETE, Manifest
from edge.observation import DEPTH_MODES
from firmware_bridge.command_line import one_or_more, zero_or_more
from quantization.fidelity.observations import SIM
from quantization.gate import SAMPLES, TRIALS, GateSettings, judge_bundle
from quantization.gate_limits import LIMITS, parse_limit

EXIT_PASSED, EXIT_FAILED = 0, 1
_MOST_WORKERS = 64
_EXAMPLE = """examples:
  molmoact-quantize build checkpoints/nano whole --recipe fp32
  molmoact-quantize build checkpoints/nano small --recipe int4
  molmoact-quantize gate small --against whole --episodes sim
  molmoact-quantize gate small --against whole --episodes my_dataset --limit tip_mean_mm=3

limits, and what holds without --limit:
"""


def add_gate(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    limits = "".join(
        f"  {name:<27}{'at least' if kind.at_least else 'at most'} {kind.default}\n"
        for name, kind in LIMITS.items()
    )
    gate = commands.add_parser(
        "gate",
        help="judge a bundle by what the arm would do; 'molmoact-edge run' asks for it",
        description="Compare a bundle with full precision on recorded episodes, and in trials on "
        "the simulated desk; write verdict and figures into the manifest. "
        "Exit codes: 0 passed, 1 failed, 2 could not be judged.",
        epilog=_EXAMPLE + limits,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    gate.add_argument("bundle", type=Path)
    gate.add_argument("--against", type=Path, required=True, help="the checkpoint's fp32 bundle")
    gate.add_argument(
        "--episodes",
        required=True,
        help="folder of a LeRobot v3 dataset that training did not see, or 'sim'",
    )
    gate.add_argument(
        "--samples", type=one_or_more, default=SAMPLES, help=f"observations, at most ({SAMPLES})"
    )
    gate.add_argument(
        "--trials",
        type=zero_or_more,
        help=f"tasks done on the simulated desk by each ({TRIALS} with 'sim', else 0)",
    )
    gate.add_argument("--workers", type=_workers, default=1, help="processes for trials (1)")
    gate.add_argument(
        "--journal", type=Path, metavar="FILE", help="keep trials there; what it has is not run"
    )
    gate.add_argument(
        "--seed", type=zero_or_more, default=0, help="of observations, noise, trials (0)"
    )
    gate.add_argument(
        "--limit",
        dest="limits",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="ask for something else than below; may be repeated",
    )
    gate.add_argument("--no-advice", action="store_true", help="look for no layers on failure")
    add_asking(gate)


def add_asking(command: argparse.ArgumentParser) -> None:
    """Describe how policies are asked."""
    command.add_argument(
        "--embodiment", default="so101", help="the robot of a dataset (default so101)"
    )
    command.add_argument("--norm-tag", help="needed when the bundle has several")
    command.add_argument(
        "--depth", choices=DEPTH_MODES, help="(default incremental where there is depth)"
    )
    command.add_argument("--actions", choices=(CONTINUOUS, DISCRETE), help="way of acting")


def run_gate(args: argparse.Namespace) -> int:
    """Judge, print, return the exit code; raises `BuildError` or `EdgeError`."""
    trials = args.trials
    if trials is None:
        trials = TRIALS if args.episodes == SIM else 0
    settings = GateSettings(
        episodes=args.episodes,
        samples=args.samples,
        trials=trials,
        seed=args.seed,
        workers=args.workers,
        journal=args.journal,
        embodiment=args.embodiment,
        norm_tag=args.norm_tag,
        depth=args.depth,
        actions=args.actions,
        limits=dict(map(parse_limit, args.limits)),
        advise=not args.no_advice,
    )
    with tqdm(unit="trial", leave=False, disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        manifest = judge_bundle(args.bundle, args.against, settings, _say, advance)
    for line in verdict_lines(args.bundle, manifest):
        print(line)
    return EXIT_PASSED if standing(manifest) == PASSED else EXIT_FAILED


def verdict_lines(bundle: Path, manifest: Manifest) -> list[str]:
    """Tell a verdict, what it rests on, and on failure what to do."""
    entry = manifest.gate
    lines = [f"measured on {entry.machine}"]
    for name, check in entry.checks.items():
        lines.append(f"  {'ok' if check.holds else 'NO':<4}{check_text(name, check)}")
    trials = f"{entry.trials} trials each" if entry.trials else "no trials"
    lines.append(
        f"{bundle}: {entry.verdict}; recipe {manifest.recipe.name}, {entry.actions} actions, depth "
        f"{entry.depth}, {entry.observations} observations of {entry.episodes}, {trials}"
    )
    if entry.verdict == PASSED:
        return lines
    failed = {name for name, check in entry.checks.items() if not check.holds}
    if "full_success_percent" in failed:
        lines.append("full precision fails as well: trials show nothing; train on, or --trials 0")
    elif failed == {"success_drop_bound_points"}:
        lines.append("so few trials cannot rule the loss out: judge it again with more --trials")
    if entry.keep:
        options = " ".join(f"--set '{rule}'" for rule in entry.keep)
        lines.append(f"layers to keep at more bits, most needed first; build again with: {options}")
    return lines


def _say(line: str) -> None:
    print(f"molmoact-quantize: {line}", file=sys.stderr, flush=True)


def _workers(text: str) -> int:
    count = one_or_more(text)
    if count > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{count} processes; at most {_MOST_WORKERS}")
    return count
