"""`molmoact-flash`: signed releases onto devices, and the way back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from deploy.build_command import add_build, run_build
from deploy.campaign_command import add_campaign, run_campaign_command
from deploy.device_commands import (
    add_device_commands,
    run_keys,
    run_prune,
    run_rollback,
    run_run,
    run_status,
)
from deploy.fleet_command import add_fleet, run_fleet
from deploy.provision_command import add_provision, run_provision
from deploy.push_command import add_push, run_push
from edge.errors import EdgeError
from firmware_bridge.command_line import CommandParser, quiet_when_unread

PROGRAM = "molmoact-flash"
EXIT_OK, EXIT_REFUSED = 0, 2


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Bring signed releases (runtime, bundle, profile) to devices over SSH.",
        epilog="example: molmoact-flash provision user@jetson --key release_key.pub; "
        "molmoact-flash push user@jetson --profile so101 --bundle bundle/ --sign release_key",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_provision(commands)
    add_build(commands)
    add_push(commands)
    add_device_commands(commands)
    add_fleet(commands)
    add_campaign(commands)
    return parser


@quiet_when_unread
def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 when it is done, 2 when something was refused or could not be done.

    1 is a campaign that lost a release.
    """
    args = build_parser().parse_args(argv)
    commands: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "provision": run_provision,
        "build": run_build,
        "push": run_push,
        "status": run_status,
        "rollback": run_rollback,
        "run": run_run,
        "prune": run_prune,
        "keys": run_keys,
        "fleet": run_fleet,
        "campaign": run_campaign_command,
    }
    try:
        return commands[args.command](args) or EXIT_OK
    except EdgeError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; the device ends what it has begun", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
