"""`molmoact-flash provision`: make a machine a device."""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy.host_arguments import add_host, ssh_of
from deploy.provision import provision_host


def add_provision(commands: argparse._SubParsersAction) -> None:
    """Describe the command."""
    command = commands.add_parser(
        "provision",
        help="make a machine a device that takes releases (once, with sudo there)",
        description="Install the agent and the keys whose releases the device takes, make the "
        "service's user, and let the one who logs in push without a password. Again: change the "
        "keys or the agent; releases stay.",
        epilog="example: molmoact-flash provision user@jetson --key release_key.pub",
    )
    add_host(command)
    command.add_argument(
        "--key",
        type=Path,
        action="append",
        required=True,
        metavar="FILE.pub",
        help="public Ed25519 key to trust; all that are to be trusted, each with --key",
    )
    command.add_argument(
        "--python", metavar="PATH", help="an interpreter on the device for releases (JetPack 5)"
    )
    command.add_argument(
        "--forget-state",
        action="store_true",
        help="begin anew where the device's own record is damaged; older releases are taken then",
    )


def run_provision(args: argparse.Namespace) -> None:
    """Do it; FlashError says why not."""
    provision_host(ssh_of(args), tuple(args.key), args.root, args.python, args.forget_state)
