"""`molmoact-flash campaign`: faults on a device of this machine's own."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from deploy.campaign import format_campaign, run_campaign
from deploy.host_arguments import say
from firmware_bridge.command_line import one_or_more

EXIT_LOST = 1


def add_campaign(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "campaign",
        help="try to lose a release: faults in every phase, on a practice device here",
        description="Put a practice device behind a real sshd on loopback and cut, kill, fill, "
        "alter and crash while releases are pushed to it. After each fault the device must run "
        "one complete release and say which. Exit code 1 when it ever does not.",
        epilog="example: molmoact-flash campaign --rounds 2",
    )
    command.add_argument("--rounds", type=one_or_more, default=1, help="of every fault (default 1)")
    command.add_argument("--only", metavar="WORDS", help="faults whose name holds this")


def run_campaign_command(args: argparse.Namespace) -> int | None:
    """Run it and print the table."""
    with tempfile.TemporaryDirectory(prefix="molmoact-campaign-") as folder:
        result = run_campaign(Path(folder), args.rounds, args.only, say)
    print(format_campaign(result))
    return EXIT_LOST if result.lost else None
