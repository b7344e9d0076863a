"""`molmoact-arm stop`: make an arm limp without dropping it, whoever drives it."""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from firmware_bridge.bus import Bus
from firmware_bridge.errors import PortError
from firmware_bridge.port_options import (
    ARM_IDS,
    UserError,
    add_ids_option,
    add_port_options,
    handling,
    listed,
    number_in,
    open_bus,
)
from firmware_bridge.soft_stop import RAMP_S, soft_stop
from firmware_bridge.stop_socket import STOP, connect

# A program may first have to be ended, and a port to come back.
ANSWER_TIMEOUT_S = 60.0
# A program whose watchdog was killed lets the arm down by itself, and then frees the port.
RELEASE_TIMEOUT_S = 8.0
POLL_S = 0.2


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "stop",
        help="make the arm limp without dropping it, also while a program drives it",
        description="Let the arm down. A program that drives it (molmoact-edge run) is asked to do "
        "so and ends; if it hangs, its watchdog does. The options below the port are for an arm "
        "that nobody drives.",
        epilog="example: molmoact-arm stop --port /dev/ttyACM0",
    )
    parser.add_argument("--port", required=True)
    parser.add_argument(
        "--ramp-s",
        type=number_in(0.0, 10.0, "s"),
        default=RAMP_S,
        metavar="S",
        help="how long the torque fades, 0..10 (default %(default)s)",
    )
    add_ids_option(parser, ARM_IDS)
    add_port_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Stop the arm; return 0 when every servo confirmed, else raise UserError naming the others."""
    client = connect(arguments.port, ANSWER_TIMEOUT_S)
    if client is None:
        return _stop(_open_bus(arguments, 0.0), arguments)
    with client:
        outcome = _ask(client, arguments.port)
    if outcome is None:
        return _stop(_open_bus(arguments, RELEASE_TIMEOUT_S), arguments)
    return _report(arguments.port, *outcome)


def _ask(client: socket.socket, port: str) -> tuple[list[str], list[str]] | None:
    """Ask a program's watchdog; return limp and unconfirmed ids, None when it ended meanwhile."""
    try:
        client.sendall(f"{STOP}\n".encode())
        with client.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                words = line.split()
                if words[:1] == ["asked"]:
                    process, program = words[1], " ".join(words[2:])
                    print(f"asked {program} (process {process}) to stop", flush=True)
                elif words[:1] == ["limp"]:
                    place = words.index("unconfirmed")
                    return words[1:place], words[place + 1 :]
                else:
                    raise UserError(f"{port}: the watchdog answers {line.strip()!r}")
    except TimeoutError:
        raise UserError(
            f"{port}: the watchdog of the program that drives the arm did not answer for "
            f"{ANSWER_TIMEOUT_S:g} s; switch the arm's power off"
        ) from None
    except OSError:
        pass
    return None


def _open_bus(arguments: argparse.Namespace, patience_s: float) -> Bus:
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(PortError):
            return open_bus(arguments.port, arguments)
        time.sleep(POLL_S)
    return open_bus(arguments.port, arguments)


def _stop(bus: Bus, arguments: argparse.Namespace) -> int:
    try:
        # Told to end, it still cuts the torque, only sooner.
        with handling((signal.SIGTERM,), signal.default_int_handler):
            report = soft_stop(bus, arguments.ids, ramp_s=arguments.ramp_s)
    finally:
        bus.close()
    for warning in report.warnings if report.limp_ids else ():
        print(f"warning: {warning}")
    return _report(arguments.port, report.limp_ids, report.unconfirmed_ids)


def _report(port: str, limp: Sequence[object], unconfirmed: Sequence[object]) -> int:
    if limp:
        print(f"limp: servos {listed(limp)}")
    if unconfirmed:
        raise UserError(
            f"{port}: servos {listed(unconfirmed)} did not confirm torque off"
            ", which was also broadcast; if the arm still holds, cut its power"
        )
    return 0
