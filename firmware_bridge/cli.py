"""`molmoact-arm`: the servo bus of an SO-100/SO-101, real or emulated.

```
molmoact-arm emulate --link /tmp/arm --calibration /tmp/arm.json
molmoact-arm scan --port /tmp/arm
molmoact-arm stop --port /tmp/arm
```
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serial.tools import list_ports

from firmware_bridge import registers
from firmware_bridge.bus import DEFAULT_REPLY_TIMEOUT_S, Bus
from firmware_bridge.calibration import CalibrationError, save_calibration
from firmware_bridge.command_line import CommandParser
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration, joint_stops_deg
from firmware_bridge.emulator.faults import Faults, FaultsError, load_faults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.emulator.pty_server import LinkError, serve
from firmware_bridge.errors import BusError
from firmware_bridge.packets import MAX_SERVO_ID
from firmware_bridge.soft_stop import RAMP_S, soft_stop, status_text
from firmware_bridge.transport import DEFAULT_BAUD_RATE, SerialTransport

PROGRAM = "molmoact-arm"
ARM_IDS = (1, 2, 3, 4, 5, 6)
SCAN_IDS = tuple(range(1, 21))
# USB vendors of servo adapters: QinHeng (CH340, CH343, CH9102), FTDI, Silicon Labs.
ADAPTER_VENDORS = frozenset((0x1A86, 0x0403, 0x10C4))


class UserError(Exception):
    """Something the user can put right; printed as one line, exit 2."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `molmoact-arm`."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Find, stop or emulate the servos of an SO-100/SO-101 arm.",
        epilog="example: molmoact-arm scan --port /dev/ttyACM0",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    emulate = commands.add_parser(
        "emulate",
        help="serve an emulated arm on a pseudo-terminal until Ctrl-C",
        epilog="example: molmoact-arm emulate --link /tmp/arm --calibration /tmp/arm.json",
    )
    emulate.add_argument(
        "--link", type=Path, required=True, metavar="PATH", help="where the port will appear"
    )
    emulate.add_argument(
        "--faults", type=Path, metavar="FILE", help="YAML or JSON of what goes wrong"
    )
    emulate.add_argument(
        "--calibration", type=Path, metavar="FILE", help="write the arm's calibration file here"
    )
    emulate.add_argument(
        "--byte-timing", action="store_true", help="replies take their time on the wire"
    )
    emulate.set_defaults(run=_emulate)

    scan = commands.add_parser(
        "scan",
        help="list ports, and the servos that answer",
        epilog="example: molmoact-arm scan --port /dev/ttyACM0 --ids 1-20",
    )
    scan.add_argument("--port", help="look at this port only")
    scan.set_defaults(run=_scan)

    stop = commands.add_parser(
        "stop",
        help="make the arm limp without dropping it",
        epilog="example: molmoact-arm stop --port /dev/ttyACM0",
    )
    stop.add_argument("--port", required=True)
    stop.add_argument(
        "--ramp-s",
        type=_ramp_s,
        default=RAMP_S,
        metavar="S",
        help="how long the torque fades, 0..10 (default %(default)s)",
    )
    stop.set_defaults(run=_stop)

    for command, ids in ((scan, SCAN_IDS), (stop, ARM_IDS)):
        command.add_argument(
            "--ids",
            type=_ids,
            default=ids,
            metavar="A-B",
            help=f"servo ids to ask (default {ids[0]}-{ids[-1]})",
        )
        command.add_argument(
            "--baud-rate", type=int, default=DEFAULT_BAUD_RATE, help="default %(default)s"
        )
        command.add_argument(
            "--reply-timeout-ms",
            type=_timeout_ms,
            default=DEFAULT_REPLY_TIMEOUT_S * 1000.0,
            metavar="MS",
            help="wait for a reply, 1..1000 (default %(default)g)",
        )
        command.add_argument(
            "--echo", action="store_true", help="the adapter returns every byte sent"
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `molmoact-arm`; return 0, or 2 with one line on stderr."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (UserError, BusError, CalibrationError, FaultsError, LinkError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _emulate(arguments: argparse.Namespace) -> int:
    faults = load_faults(arguments.faults) if arguments.faults else Faults()
    if arguments.calibration:
        save_calibration(default_calibration(), arguments.calibration)
    plant = RotorPlant(len(ARM_IDS), stops_deg=joint_stops_deg())
    bus = EmulatedBus(plant, ARM_IDS, faults, byte_timing=arguments.byte_timing)
    stop = threading.Event()

    def announce(terminal: str) -> None:
        print(f"emulated servos 1-6 at {arguments.link} ({terminal}); Ctrl-C ends", flush=True)

    with _handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda *_: stop.set()):
        serve(bus, arguments.link, stop, on_ready=announce)
    return 0


def _scan(arguments: argparse.Namespace) -> int:
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
    bus = _open_bus(port, arguments)
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


def _stop(arguments: argparse.Namespace) -> int:
    bus = _open_bus(arguments.port, arguments)
    try:
        # Told to end, it still cuts the torque, only sooner.
        with _handling((signal.SIGTERM,), signal.default_int_handler):
            report = soft_stop(bus, arguments.ids, ramp_s=arguments.ramp_s)
    finally:
        bus.close()
    for warning in report.warnings if report.limp_ids else ():
        print(f"warning: {warning}")
    if report.limp_ids:
        print(f"limp: servos {_listed(report.limp_ids)}")
    if report.unconfirmed_ids:
        raise UserError(
            f"{arguments.port}: servos {_listed(report.unconfirmed_ids)} did not confirm torque off"
            ", which was also broadcast; if the arm still holds, cut its power"
        )
    return 0


@contextmanager
def _handling(numbers: Sequence[int], handler: Callable[..., None]) -> Iterator[None]:
    """Answer signals with `handler` for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _open_bus(port: str, arguments: argparse.Namespace) -> Bus:
    transport = SerialTransport(port, arguments.baud_rate)
    return Bus(transport, reply_timeout_s=arguments.reply_timeout_ms / 1000.0, echo=arguments.echo)


def _listed(servo_ids: Sequence[int]) -> str:
    return " ".join(str(servo_id) for servo_id in servo_ids)


def _ids(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of servo ids such as 1-6")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high <= MAX_SERVO_ID:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are ids 0-{MAX_SERVO_ID}, low first")
    return tuple(range(low, high + 1))


def _ramp_s(text: str) -> float:
    return _number(text, 0.0, 10.0, "s")


def _timeout_ms(text: str) -> float:
    return _number(text, 1.0, 1000.0, "ms")


def _number(text: str, low: float, high: float, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is {low:g}..{high:g} {unit}")
    return value


if __name__ == "__main__":
    sys.exit(main())
