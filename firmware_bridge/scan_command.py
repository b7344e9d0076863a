"""`molmoact-arm scan`: ports, and the servos that answer on them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.console import Console, Terminal
from firmware_bridge.errors import BusError
from firmware_bridge.line_probe import count_replies, echoes
from firmware_bridge.packets import MAX_SERVO_ID
from firmware_bridge.port_options import UserError, add_ids_option, add_port_options, open_bus
from firmware_bridge.servo_state import ServoState, read_state
from firmware_bridge.servo_survey import answering_ids, buses_at_other_rates
from firmware_bridge.soft_stop import status_text
from firmware_bridge.transport import DEFAULT_BAUD_RATE
from firmware_bridge.usb_ports import UsbPort, usb_ports

SCAN_IDS = tuple(range(1, 21))
# Enough to see two servos talk over each other, whose positions are never equal for long.
PROBES = 8
ECHO_TEXT = (
    "the adapter returns every byte sent; set its jumper to USB (B on Waveshare's), or give --echo "
    "to every command"
)


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "scan",
        help="list ports, and the servos that answer",
        description="List USB serial ports and the servos on them. When none answers at "
        f"{DEFAULT_BAUD_RATE} baud, the other rates servos know are tried as well.",
        epilog="example: molmoact-arm scan --port /dev/ttyACM0 --ids 1-20",
    )
    parser.add_argument("--port", help="look at this port only")
    add_ids_option(parser, SCAN_IDS)
    add_port_options(parser, baud_rate=None)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is there; return 0. Raises UserError when there is nothing."""
    console = Terminal()

    def scan(port: str) -> int:
        return scan_port(
            console,
            lambda baud_rate: open_bus(port, arguments, baud_rate),
            arguments.ids,
            arguments.baud_rate,
            echo=arguments.echo,
        )

    if arguments.port:
        if not scan(arguments.port):
            raise UserError(f"{arguments.port}: {_nothing(arguments)}")
        return 0
    return _scan_all(console, usb_ports(), scan)


def scan_port(
    console: Console,
    open_at: Callable[[int], Bus],
    servo_ids: Sequence[int],
    baud_rate: int | None,
    *,
    echo: bool = False,
) -> int:
    """Print a line for every servo that answers and return how many did.

    `baud_rate` None means 1 Mbit/s, and every other rate when nobody answers there. Raises
    UserError for an adapter that echoes although `echo` does not say so.
    """
    bus = open_at(baud_rate or DEFAULT_BAUD_RATE)
    try:
        if not echo and echoes(bus):
            raise UserError(ECHO_TEXT)
        found = _report(console, bus, servo_ids)
    finally:
        bus.close()
    if found or baud_rate:
        return found
    for other in buses_at_other_rates(open_at, DEFAULT_BAUD_RATE):
        here = _report(console, other, servo_ids)
        if here:
            console.say(
                f"  these answer at {other.transport.baud_rate} baud, the arm needs "
                f"{DEFAULT_BAUD_RATE}: run 'molmoact-arm setup'"
            )
        found += here
    return found


def _scan_all(console: Console, ports: Sequence[UsbPort], scan: Callable[[str], int]) -> int:
    if not ports:
        raise UserError("no USB serial port found; plug the arm's adapter in, or give --port")
    for port in ports:
        console.say(port.line)
        if not port.is_adapter:
            console.say("  not a known servo adapter; give --port to ask it all the same")
            continue
        try:
            if not scan(port.device):
                console.say("  no servo answered; check power and cabling")
        except (BusError, UserError) as error:
            console.say(f"  {error}")
    return 0


def _report(console: Console, bus: Bus, servo_ids: Sequence[int]) -> int:
    ids = answering_ids(bus, servo_ids)
    for servo_id in ids:
        try:
            console.say(_line(read_state(bus, servo_id)))
        except BusError as error:
            console.say(f"  id {servo_id}: answered a ping, then failed: {error}")
        replies = count_replies(bus, servo_id, PROBES)
        if replies.bad:
            console.say(
                f"  id {servo_id}: {replies.bad} of {PROBES} replies lost or damaged; two servos "
                "may share this id (unplug all but one), or a plug is loose"
            )
    return len(ids)


def _line(servo: ServoState) -> str:
    return (
        f"  id {servo.servo_id:<3} model {servo[registers.MODEL_NUMBER]} ({servo.model_name})  "
        f"firmware {servo.firmware}  {servo.build} build  {servo.supply_v:.1f} V  "
        f"{servo.temperature_c} C  {status_text(servo.status) if servo.status else 'ok'}"
    )


def _nothing(arguments: argparse.Namespace) -> str:
    ids = arguments.ids
    rate = f"at {arguments.baud_rate} baud" if arguments.baud_rate else "at any baud rate"
    return (
        f"no servo of ids {ids[0]}-{ids[-1]} answered {rate}; check power and cabling, "
        f"or try --ids 1-{MAX_SERVO_ID}"
    )
