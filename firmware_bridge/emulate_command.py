"""`molmoact-arm emulate`: an emulated arm on a pseudo-terminal."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from firmware_bridge.calibration import save_calibration
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration, joint_stops_deg
from firmware_bridge.emulator.faults import Faults
from firmware_bridge.emulator.faults_file import FaultsWatch, load_faults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.emulator.pty_server import serve
from firmware_bridge.port_options import ARM_IDS, handling


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "emulate",
        help="serve an emulated arm on a pseudo-terminal until Ctrl-C",
        epilog="example: molmoact-arm emulate --link /tmp/arm --calibration /tmp/arm.json",
    )
    parser.add_argument(
        "--link", type=Path, required=True, metavar="PATH", help="where the port will appear"
    )
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="FILE",
        help="YAML or JSON of what goes wrong; read again whenever it is written",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="write the arm's calibration file here"
    )
    parser.add_argument(
        "--byte-timing", action="store_true", help="replies take their time on the wire"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes; return 0."""
    faults = load_faults(arguments.faults) if arguments.faults else Faults()
    if arguments.calibration:
        save_calibration(default_calibration(), arguments.calibration)
    plant = RotorPlant(len(ARM_IDS), stops_deg=joint_stops_deg())
    bus = EmulatedBus(plant, ARM_IDS, faults, byte_timing=arguments.byte_timing)
    watch = None
    if arguments.faults:
        watch = FaultsWatch(arguments.faults, bus.replace_faults, _complain).poll
    stop = threading.Event()

    def announce(terminal: str) -> None:
        print(f"emulated servos 1-6 at {arguments.link} ({terminal}); Ctrl-C ends", flush=True)

    with handling((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), lambda *_: stop.set()):
        serve(bus, arguments.link, stop, on_ready=announce, on_tick=watch)
    if bus.fired:
        struck = ", ".join(f"{kind} {count}" for kind, count in sorted(bus.fired.items()))
        print(f"faults that struck: {struck}", flush=True)
    return 0


def _complain(line: str) -> None:
    print(f"molmoact-arm: {line}", file=sys.stderr, flush=True)
