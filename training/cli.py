"""molmoact-train: make and train MolmoAct2 checkpoints.

molmoact-train init checkpoints/mine --size nano --seed 0
"""

from __future__ import annotations

import argparse
import errno
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.errors import EdgeError
from firmware_bridge.command_line import CommandParser, quiet_when_unread
from training.datasets import stats_command
from training.demonstrations import demos_command
from training.depth import depth_command
from training.errors import TrainingError
from training.init.init_checkpoint import WrittenCheckpoint, init_checkpoint
from training.init.safetensors_writer import BYTES_PER_VALUE
from training.init.sizes import SIZES, size_by_name
from training.model import merge_command
from training.molmoer import evaluate_command, questions_command, rehearsal_command
from training.openfast import openfast_command
from training.trainer import curves_command, plan_command, run_command

PROGRAM = "molmoact-train"
USER_ERROR, INTERRUPTED = 2, 130
_REMEDIES = {
    errno.ENOSPC: "make room and run it again",
    errno.EDQUOT: "make room and run it again",
    errno.EACCES: "give permission and run it again",
    errno.EROFS: "choose a place that can be written",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Make and train MolmoAct2 checkpoints.",
        epilog=f"example: {PROGRAM} init checkpoints/mine --size nano --seed 0",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    init = commands.add_parser(
        "init",
        help="write a checkpoint with random weights in the released layout",
        description="Write a MolmoAct2 checkpoint with random weights in the released layout.",
        epilog=f"example: {PROGRAM} init checkpoints/mine --size nano --seed 0",
    )
    init.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    init.add_argument("--size", default="nano", help=f"one of: {', '.join(SIZES)} (default: nano)")
    init.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    init.add_argument(
        "--dtype",
        default="fp32",
        choices=tuple(BYTES_PER_VALUE),
        help="of the file (default: fp32)",
    )
    init.add_argument(
        "--max-shard-mib",
        type=_positive,
        default=4768,
        metavar="N",
        help="largest weight file, in MiB (default: 4768, which is 5 GB)",
    )
    init.add_argument(
        "--without-expert",
        action="store_true",
        help="the backbone alone: where training begins; post-training grafts the expert",
    )
    init.set_defaults(run=_init)
    for command in (
        run_command,
        plan_command,
        demos_command,
        stats_command,
        openfast_command,
        merge_command,
        curves_command,
        questions_command,
        evaluate_command,
        rehearsal_command,
        depth_command,
    ):
        command.add_parser(commands)
    return parser


@quiet_when_unread
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 (130: Ctrl-C) after a one-line message on stderr."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except (TrainingError, EdgeError) as error:
        return _refused(str(error))
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, "choose another path")
        return _refused(f"{error.filename or args.command}: {error.strerror or error}; {remedy}")
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped from the keyboard", file=sys.stderr)
        return INTERRUPTED


def _refused(problem: str) -> int:
    print(f"{PROGRAM}: error: {problem}", file=sys.stderr)
    return USER_ERROR


def _init(args: argparse.Namespace) -> int:
    size = size_by_name(args.size)
    written = init_checkpoint(
        args.out,
        size.without_expert() if args.without_expert else size,
        seed=args.seed,
        dtype=args.dtype,
        max_shard_mib=args.max_shard_mib,
    )
    print(_size_table(written))
    return 0


def _size_table(written: WrittenCheckpoint) -> str:
    rows = [f"{'part':<24}{'parameters':>16}"]
    rows += [f"{part:<24}{count:>16,}" for part, count in written.parameters.items()]
    rows += [f"{'all':<24}{sum(written.parameters.values()):>16,}", ""]
    rows += [f"{'file':<36}{'bytes':>16}"]
    rows += [f"{name:<36}{count:>16,}" for name, count in written.file_bytes.items()]
    rows += [f"{'all':<36}{sum(written.file_bytes.values()):>16,}"]
    return "\n".join(rows)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
