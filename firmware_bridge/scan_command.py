"""`molmoact-arm scan`: ports, and the servos that answer on them."""

from __future__ import annotations

import argparse
from typing import Any

from serial.tools import list_ports

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import BusError
from firmware_bridge.packets import MAX_SERVO_ID
from firmware_bridge.port_options import UserError, add_ids_option, add_port_options, open_bus
from firmware_bridge.soft_stop import status_text

SCAN_IDS = tuple(range(1, 21))
# USB vendors of servo adapters: QinHeng (CH340, CH343, CH9102), FTDI, Silicon Labs.
ADAPTER_VENDORS = frozenset((0x1A86, 0x0403, 0x10C4))


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "scan",
        help="list ports, and the servos that answer",
        epilog="example: molmoact-arm scan --port /dev/ttyACM0 --ids 1-20",
    )
    parser.add_argument("--port", help="look at this port only")
    add_ids_option(parser, SCAN_IDS)
    add_port_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what is there; return 0. Raises UserError when there is nothing."""
    if arguments.port:
        if not _scan_port(arguments.port, arguments):
            ids = arguments.ids
            raise UserError(
                f"{arguments.port}: no servo of ids {ids[0]}-{ids[-1]} answered at "
                f"{arguments.baud_rate} baud; check power and cabling, "
                f"or try --ids 1-{MAX_SERVO_ID}"
            )
        return 0
    ports = [port for port in list_ports.comports() if port.vid is not None]
    if not ports:
        raise UserError("no USB serial port found; plug the arm's adapter in, or give --port")
    for port in ports:
        print(f"{port.device}  {port.vid:04x}:{port.pid:04x}  {port.description}")
        if port.vid not in ADAPTER_VENDORS:
            print("  not a known servo adapter; give --port to ask it all the same")
            continue
        try:
            if not _scan_port(port.device, arguments):
                print("  no servo answered")
        except BusError as error:
            print(f"  {error}")
    return 0


def _scan_port(port: str, arguments: argparse.Namespace) -> int:
    """Print a line for every servo that answers and return how many did."""
    bus = open_bus(port, arguments)
    found = 0
    try:
        for servo_id in arguments.ids:
            try:
                bus.ping(servo_id, tries=1)
            except BusError:
                continue
            found += 1
            try:
                print(_servo_line(bus, servo_id))
            except BusError as error:
                print(f"  id {servo_id}: answered a ping, then failed: {error}")
    finally:
        bus.close()
    return found


def _servo_line(bus: Bus, servo_id: int) -> str:
    model = bus.read(servo_id, registers.MODEL_NUMBER)
    major = bus.read(servo_id, registers.FIRMWARE_MAJOR_VERSION)
    minor = bus.read(servo_id, registers.FIRMWARE_MINOR_VERSION)
    supply_v = bus.read(servo_id, registers.PRESENT_VOLTAGE) / 10.0
    temperature_c = bus.read(servo_id, registers.PRESENT_TEMPERATURE)
    name = "sts3215" if model == registers.STS3215_MODEL_NUMBER else "unknown"
    bits = bus.status_bits[servo_id]
    return (
        f"  id {servo_id:<3} model {model} ({name})  firmware {major}.{minor}  {supply_v:.1f} V  "
        f"{temperature_c} C  {status_text(bits) if bits else 'ok'}"
    )
