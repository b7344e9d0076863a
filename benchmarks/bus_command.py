"""`molmoact-bench bus`: its words, and what they start."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator

from benchmarks.bus_table import print_bus
from benchmarks.bus_timing import measure_bus
from benchmarks.errors import BusBenchError
from benchmarks.fault_campaign import Campaign, chosen_kinds, run_campaign, usable_cores
from benchmarks.fault_campaign_faults import KINDS
from benchmarks.fault_campaign_table import print_campaign
from edge.safety import SafetyGate

EXIT_OK, EXIT_FAILED = 0, 1
CAMPAIGN_OPTIONS = ("ticks", "crashes", "jobs", "seed", "profile")
_DESCRIPTION = """Time the reading and writing of 6 and 12 emulated servos beside the wire's own
limit and LeRobot's bus. With --faults, drive an emulated arm with the control loop, the arm and
the safety gate of 'molmoact-edge run' on random goals while faults strike it, and count what must
not happen.
"""
_EXAMPLE = f"""examples:
  molmoact-bench bus                                         # times, beside the wire's limit
  molmoact-bench bus --faults all --ticks 100000             # a fault campaign
  molmoact-bench bus --faults late,brown_out --ticks 5000 --seed 7 --crashes 0

faults:
{textwrap.fill(", ".join(KINDS), 90, initial_indent="  ", subsequent_indent="  ")}

exit codes:
  0 done, 1 the campaign found something that must not happen, 2 it could not be run
"""


def add_bus_command(
    commands: argparse._SubParsersAction,
    count: Callable[[str], int],
    number: Callable[[str], int],
) -> None:
    """Describe the sub-command; `count` reads numbers from 1, `number` from 0."""
    bus = commands.add_parser(
        "bus",
        help="the servo bus: how long it takes, and what faults do to it",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bus.add_argument(
        "--cycles", type=count, metavar="N", help="timed cycles of each way (default 2000)"
    )
    campaign = bus.add_argument_group("fault campaign")
    campaign.add_argument(
        "--faults", metavar="KINDS", help="'all', or a list with commas, as named below"
    )
    campaign.add_argument(
        "--ticks", type=count, help="control ticks, shared among the kinds (default 100000)"
    )
    campaign.add_argument(
        "--crashes",
        type=number,
        metavar="N",
        help="real programs to kill in each of two ways, 0 for none (default 5; 8 s each)",
    )
    campaign.add_argument("--seed", type=number, help="same seed, same campaign (default 0)")
    campaign.add_argument("--profile", help="its limits are tested (default so101)")
    campaign.add_argument("--jobs", type=count, help="processes (default: one a usable core)")


def run_bus(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code, raises `EdgeError`."""
    if args.faults is None:
        for name in CAMPAIGN_OPTIONS:
            if getattr(args, name) is not None:
                raise BusBenchError(f"--{name} is of a fault campaign; give --faults too")
        with _ended_softly():
            print_bus(measure_bus(args.cycles or 2000, _say))
        return EXIT_OK
    if args.cycles is not None:
        raise BusBenchError("--cycles is not of a fault campaign; leave it or --faults out")
    campaign = Campaign(
        kinds=chosen_kinds(args.faults),
        ticks=args.ticks or 100_000,
        seed=args.seed or 0,
        profile=args.profile or "so101",
        jobs=args.jobs or usable_cores(),
        crashes=5 if args.crashes is None else args.crashes,
    )
    with _ended_softly():
        report = run_campaign(campaign, SafetyGate, _say)
    print_campaign(report)
    return EXIT_FAILED if report.failures else EXIT_OK


@contextlib.contextmanager
def _ended_softly() -> Iterator[None]:
    """Told to end from outside, take the processes that were started with it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(line: str) -> None:
    print(f"molmoact-bench: {line}", file=sys.stderr, flush=True)
