"""`molmoact-arm health`: a live table of what the servos feel."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

from firmware_bridge.calibration import load_calibration
from firmware_bridge.calibration_files import add_calibration_options, read_path
from firmware_bridge.console import Console, Terminal
from firmware_bridge.errors import PortError
from firmware_bridge.health import HealthMonitor, ServoHealth, health_json, health_table
from firmware_bridge.port_options import UserError, add_port_options, number_in, open_bus
from firmware_bridge.transport import DEFAULT_BAUD_RATE

PERIOD_S = 0.2


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "health",
        help="show what the servos feel, live",
        description="Show position, speed, load, current, voltage, temperature, torque and lost "
        "replies of every servo until Ctrl-C. It only reads: torque and goals stay as they are. "
        "Positions are in degrees and gripper percent with a calibration, else in ticks.",
        epilog="example: molmoact-arm health --port /dev/ttyACM0 --once",
    )
    parser.add_argument("--port", required=True)
    add_calibration_options(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--once", action="store_true", help="one sample; exit 2 if one is silent")
    length.add_argument(
        "--seconds",
        type=number_in(0.0, math.inf, "s"),
        default=math.inf,
        metavar="S",
        help="end after so long",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON a sample")
    add_port_options(parser, other_rates=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show samples; return 0. Raises UserError when a servo is silent in the only sample."""
    console = Terminal()
    path = read_path(arguments)
    calibration = load_calibration(path) if path else None
    bus = open_bus(arguments.port, arguments, DEFAULT_BAUD_RATE)
    try:
        view = View(
            console,
            HealthMonitor(bus, calibration),
            as_json=arguments.json,
            unit="ticks" if calibration is None else "deg, %",
        )
        if arguments.once:
            view.once()
        else:
            view.watch(arguments.seconds)
    finally:
        bus.close()
    return 0


class View:
    """Shows what a monitor finds."""

    def __init__(
        self,
        console: Console,
        monitor: HealthMonitor,
        *,
        as_json: bool,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._console = console
        self._monitor = monitor
        self._as_json = as_json
        self._unit = unit
        self._clock = clock
        self._sleep = sleep
        self._start_s = clock()

    def once(self) -> None:
        """Show one sample. Raises UserError when a servo is silent in it, and PortError."""
        silent = [f"{servo.servo_id} ({servo.joint})" for servo in self._show() if servo.silent]
        if silent:
            raise UserError(f"no reply from servo {', '.join(silent)}; run 'molmoact-arm doctor'")

    def watch(self, seconds: float) -> None:
        """Show samples for so long; a port that is unplugged is waited for."""
        end_s = self._start_s + seconds
        while self._clock() < end_s:
            next_s = self._clock() + PERIOD_S
            try:
                self._show()
            except PortError as error:
                self._console.show([str(error)])
            self._sleep(max(0.0, next_s - self._clock()))

    def _show(self) -> list[ServoHealth]:
        sample = self._monitor.sample()
        if self._as_json:
            self._console.say(json.dumps(health_json(sample, self._clock() - self._start_s)))
        else:
            self._console.show(health_table(sample, self._unit))
        return sample
