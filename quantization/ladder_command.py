"""`molmoact-quantize ladder`: try the rungs of a board's ladder, and keep what came of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from edge.gate_entry import PASSED
from edge.manifest import CONTINUOUS, DISCRETE
from edge.observation import DEPTH_MODES
from edge.profile import load_profile
from edge.rung_verdicts import LADDER_NAME
from firmware_bridge.command_line import one_or_more, zero_or_more
from quantization.ladder import LATENCY_S, TRIALS, LadderSettings, judge_rungs

EXIT_PASSED, EXIT_FAILED = 0, 1
_EXAMPLE = """example:
  molmoact-quantize ladder bundle --profile my_board.yaml --trials 300 --journal trials.jsonl
"""


def add_ladder(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    ladder = commands.add_parser(
        "ladder",
        help="judge what a board's profile gives up under pressure, by trials",
        description="Have a bundle do the same tasks on the simulated desk at each rung of the "
        f"board's ladder and at full pace; write the verdicts into the bundle ({LADDER_NAME}). "
        "Exit codes: 0 all passed, 1 some failed, 2 could not be judged.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ladder.add_argument("bundle", type=Path)
    ladder.add_argument("--profile", required=True, help="whose board has the ladder")
    ladder.add_argument(
        "--trials", type=one_or_more, default=TRIALS, help=f"of each rung ({TRIALS})"
    )
    ladder.add_argument("--workers", type=one_or_more, default=1, help="processes (1)")
    ladder.add_argument(
        "--journal", type=Path, metavar="FILE", help="keep trials there; what it has is not run"
    )
    ladder.add_argument("--seed", type=zero_or_more, default=0, help="of trials and noise (0)")
    ladder.add_argument(
        "--latency-s",
        type=_seconds,
        default=LATENCY_S,
        help=f"from observation to chunk, as the board has it ({LATENCY_S})",
    )
    ladder.add_argument(
        "--replan-s", type=_seconds, help="at full pace (as the profile's max_policy_hz)"
    )
    ladder.add_argument("--norm-tag", help="needed when the bundle has several")
    ladder.add_argument(
        "--depth", choices=DEPTH_MODES, help="(default incremental where there is depth)"
    )
    ladder.add_argument("--actions", choices=(CONTINUOUS, DISCRETE), help="way of acting")


def run_ladder(args: argparse.Namespace) -> int:
    """Judge, print, return the exit code; raises `BuildError` or `EdgeError`."""
    settings = LadderSettings(
        trials=args.trials,
        seed=args.seed,
        workers=args.workers,
        journal=args.journal,
        latency_s=args.latency_s,
        replan_s=args.replan_s,
        norm_tag=args.norm_tag,
        depth=args.depth,
        actions=args.actions,
    )
    with tqdm(unit="trial", leave=False, disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.n = done
            bar.refresh()

        profile = load_profile(args.profile)
        verdicts = judge_rungs(args.bundle, profile, settings, tqdm.write, advance)
    if not verdicts:
        print(f"{args.bundle}: no rung of this ladder needs trials")
        return EXIT_PASSED
    print(f"measured on {verdicts[0].machine}; written to {args.bundle / LADDER_NAME}")
    failed = any(verdict.verdict != PASSED for verdict in verdicts)
    return EXIT_FAILED if failed else EXIT_PASSED


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 60.0:
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds up to 60 is needed")
    return seconds
