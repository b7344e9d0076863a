"""`molmoact-arm stop`: make an arm limp without dropping it."""

from __future__ import annotations

import argparse
import signal
from typing import Any

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


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "stop",
        help="make the arm limp without dropping it",
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
    bus = open_bus(arguments.port, arguments)
    try:
        # Told to end, it still cuts the torque, only sooner.
        with handling((signal.SIGTERM,), signal.default_int_handler):
            report = soft_stop(bus, arguments.ids, ramp_s=arguments.ramp_s)
    finally:
        bus.close()
    for warning in report.warnings if report.limp_ids else ():
        print(f"warning: {warning}")
    if report.limp_ids:
        print(f"limp: servos {listed(report.limp_ids)}")
    if report.unconfirmed_ids:
        raise UserError(
            f"{arguments.port}: servos {listed(report.unconfirmed_ids)} did not confirm torque off"
            ", which was also broadcast; if the arm still holds, cut its power"
        )
    return 0
