"""How a device is named on the command line, and what reaches it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.device.layout import DEFAULT_ROOT
from deploy.errors import FlashError
from deploy.link import AgentLink, session_command, ssh_command


def add_host(command: argparse.ArgumentParser) -> None:
    """Describe the device to reach."""
    command.add_argument("host", help="user@name, or a name from ~/.ssh/config")
    add_ssh(command)


def add_ssh(command: argparse.ArgumentParser) -> None:
    """Describe how OpenSSH reaches a device."""
    command.add_argument("--port", type=int, help="of its SSH server (default: 22, or ~/.ssh)")
    command.add_argument("--identity", type=Path, metavar="FILE", help="private key to log in with")
    command.add_argument(
        "--ssh-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed to ssh as -o, as often as given",
    )
    command.add_argument(
        "--via",
        metavar="WORDS",
        help="reach the device by these words instead of ssh: 'docker exec -i NAME'",
    )
    command.add_argument(
        "--root",
        default=DEFAULT_ROOT,
        help=f"folder on the device (default {DEFAULT_ROOT}); another one needs no root rights",
    )


def ssh_of(args: argparse.Namespace) -> list[str]:
    """Return the words that reach the device; what it is to do comes behind them as one text."""
    if args.via is not None:
        try:
            words = shlex.split(args.via)
        except ValueError as error:
            raise FlashError(f"--via {args.via}: {error}") from error
        if not words:
            raise FlashError("--via is empty; give the words that reach the device")
        return [*words, "/bin/sh", "-c"]
    return ssh_command(args.host, args.port, args.identity, tuple(args.ssh_option))


def connector(args: argparse.Namespace) -> Callable[[], AgentLink]:
    """Return what opens a session with the device."""
    command = session_command(ssh_of(args), args.root)
    return lambda: AgentLink(command, say)


def say(line: str) -> None:
    """Tell the user what is going on."""
    print(line, file=sys.stderr, flush=True)
