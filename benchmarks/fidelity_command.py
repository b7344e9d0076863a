"""`molmoact-bench fidelity`: its words, and what they start."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.errors import FidelityBenchError
from benchmarks.fidelity import OpenLoopOptions, TrialOptions, measure_fidelity, write_json
from benchmarks.fidelity_table import print_fidelity
from benchmarks.plots import check_free
from edge.ladder_profile import Rung
from edge.manifest import CONTINUOUS, DISCRETE
from edge.observation import DEPTH_MODES
from edge.profile import load_profile
from quantization.fidelity.observations import Sampling
from quantization.fidelity.open_loop import PROFILE, Conditions

SAMPLES, LAYER_SAMPLES = 100, 24
REPLAN_S, LATENCY_S, LIMIT_S = 0.5, 0.1, 20.0
_NEEDS = {
    "episodes": ("sensitivity", "by_block"),
    "trials": ("against_depth", "against_chunking", "rung", "journal"),
}
KINDS = ("touch", "put_in_bin", "push_to_mark")
EXAMPLE = """example:
  molmoact-quantize build checkpoints/nano whole --recipe fp32
  molmoact-quantize build checkpoints/nano small --recipe int4
  molmoact-bench fidelity small --against whole --episodes sim
  molmoact-bench fidelity small --against whole --episodes data/demos_held_out --sensitivity
  molmoact-bench fidelity small --against whole --trials 300 --workers 2 --journal trials.jsonl
"""


def add_fidelity_command(
    commands: argparse._SubParsersAction,
    count: Callable[[str], int],
    number: Callable[[str], int],
    seconds: Callable[[str], float],
) -> None:
    """Describe the sub-command; the callables read counts, seeds and seconds."""
    fidelity = commands.add_parser(
        "fidelity",
        help="how far a bundle is from full precision, at the arm",
        description="Show a bundle and full precision the same observations and compare what the "
        "arm would be told, in degrees at each joint and millimetres at the gripper; have both do "
        "the same tasks on the simulated desk; say which layers cost most. Everything stands "
        "beside what full precision differs from itself by with other noise.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fidelity.add_argument("bundle", type=Path)
    fidelity.add_argument(
        "--against", type=Path, required=True, help="the fp32 bundle of the same checkpoint"
    )
    fidelity.add_argument("--norm-tag", help="needed when the bundle has several")
    fidelity.add_argument("--seed", type=number, default=0, help="of noise, choice and trials (0)")
    fidelity.add_argument(
        "--depth", choices=DEPTH_MODES, help="(default incremental where there is depth)"
    )
    fidelity.add_argument("--actions", choices=(CONTINUOUS, DISCRETE), help="way of acting")
    fidelity.add_argument("--json", type=Path, metavar="FILE", help="also write the JSON there")
    _add_open_loop(fidelity.add_argument_group("open loop, on recorded observations"), count)
    _add_trials(fidelity.add_argument_group("closed loop, on the simulated desk"), count, seconds)


def run_fidelity(args: argparse.Namespace) -> None:
    """Measure, print, write; raise `EdgeError`."""
    _refuse_unused(args)
    if args.json:
        check_free(args.json)
    conditions = Conditions(
        norm_tag=args.norm_tag,
        depth=args.depth,
        actions=args.actions,
        seed=args.seed,
        profile=args.profile,
    )
    fidelity = measure_fidelity(
        args.bundle, args.against, conditions, _open_loop(args), _trials(args)
    )
    if args.json:
        write_json(fidelity, args.json)
    print_fidelity(fidelity)


def _refuse_unused(args: argparse.Namespace) -> None:
    """Raise `FidelityBenchError` for options of a comparison that was not asked for."""
    for needed, names in _NEEDS.items():
        for name in names:
            if getattr(args, needed) is None and getattr(args, name):
                option = name.replace("_", "-")
                raise FidelityBenchError(f"--{option} says nothing without --{needed}; give both")


def _add_open_loop(group: argparse._ArgumentGroup, count: Callable[[str], int]) -> None:
    group.add_argument(
        "--episodes",
        metavar="DATASET|sim",
        help="folder of a LeRobot v3 dataset that training did not see, or 'sim': the scripted "
        "expert at held-out tasks",
    )
    group.add_argument(
        "--samples", type=count, default=SAMPLES, help=f"observations, at most ({SAMPLES})"
    )
    group.add_argument(
        "--embodiment",
        default="so101",
        help="in which joint frame the dataset was recorded: a shipped embodiment or a .yaml path "
        "(so101)",
    )
    group.add_argument(
        "--profile",
        default=PROFILE,
        help=f"arm, for joint frame and fingertip, and engine threads ({PROFILE})",
    )
    group.add_argument(
        "--sensitivity", action="store_true", help="also judge every matrix by itself"
    )
    group.add_argument(
        "--layer-samples",
        type=count,
        default=LAYER_SAMPLES,
        help=f"observations for that ({LAYER_SAMPLES})",
    )
    group.add_argument(
        "--by-block", action="store_true", help="judge the matrices of a block together"
    )


def _add_trials(
    group: argparse._ArgumentGroup,
    count: Callable[[str], int],
    seconds: Callable[[str], float],
) -> None:
    group.add_argument("--trials", type=count, metavar="N", help="tasks in all; kinds take turns")
    group.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="(all)")
    group.add_argument(
        "--replan-s", type=seconds, default=REPLAN_S, help=f"from call to call ({REPLAN_S})"
    )
    group.add_argument(
        "--latency-s",
        type=seconds,
        default=LATENCY_S,
        help=f"from observation to chunk ({LATENCY_S})",
    )
    group.add_argument(
        "--limit-s", type=seconds, default=LIMIT_S, help=f"for one task ({LIMIT_S:g})"
    )
    group.add_argument(
        "--chunking", choices=("on", "off"), default="on", help="real-time chunking (on)"
    )
    group.add_argument(
        "--against-chunking", choices=("on", "off"), help="of full precision (as --chunking)"
    )
    group.add_argument(
        "--against-depth", choices=DEPTH_MODES, help="of full precision (as --depth)"
    )
    group.add_argument(
        "--rung",
        type=count,
        metavar="N",
        help="do the bundle's trials with the first N rungs in effect that the board of --profile "
        "has on its ladder",
    )
    group.add_argument("--workers", type=count, default=1, help="processes (1)")
    group.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="keep results there; what it has is not run again, for any bundle",
    )


def _open_loop(args: argparse.Namespace) -> OpenLoopOptions | None:
    if args.episodes is None:
        return None
    return OpenLoopOptions(
        episodes=args.episodes,
        embodiment=args.embodiment,
        sampling=Sampling(args.samples, args.replan_s, args.seed),
        layer_samples=args.layer_samples if args.sensitivity else 0,
        by_block=args.by_block,
    )


def _trials(args: argparse.Namespace) -> TrialOptions | None:
    if args.trials is None:
        return None
    return TrialOptions(
        trials=args.trials,
        kinds=tuple(args.kinds),
        seed=args.seed,
        replan_s=args.replan_s,
        latency_s=args.latency_s,
        limit_s=args.limit_s,
        chunking=args.chunking == "on",
        against_chunking=(args.against_chunking or args.chunking) == "on",
        against_depth=args.against_depth,
        workers=args.workers,
        journal=args.journal,
        rungs=() if args.rung is None else _rungs(args.profile, args.rung),
    )


def _rungs(name: str, level: int) -> tuple[Rung, ...]:
    profile = load_profile(name)
    rungs = () if profile.board.ladder is None else profile.board.ladder.rungs
    if level > len(rungs):
        raise FidelityBenchError(
            f"--rung {level}: the ladder of board {profile.board.name} has {len(rungs)} rungs; "
            "give fewer, or a --profile whose board has as many"
        )
    return rungs[:level]
