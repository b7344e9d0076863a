"""`molmoact-arm calibrate`: ranges and offsets of the joints, guided, in LeRobot's file."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from firmware_bridge.calibration import (
    DEGREES_PER_TICK,
    Calibration,
    MotorCalibration,
    load_calibration,
)
from firmware_bridge.calibration_files import (
    add_calibration_options,
    beside,
    check_writable,
    read_path,
    replace_calibration,
    written_path,
)
from firmware_bridge.calibration_session import IDS, SWEPT_JOINTS, CalibrationSession
from firmware_bridge.console import Console, Terminal, confirmed
from firmware_bridge.errors import ServoFault
from firmware_bridge.port_options import UserError, add_port_options, handling, listed, open_bus
from firmware_bridge.transport import DEFAULT_BAUD_RATE

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FOLLOW_S = 0.02
SHOW_EVERY = 5
MIDDLE_TEXT = (
    "move every joint to the middle of its range (as in LeRobot's picture: upper arm upright, "
    "forearm level, jaw half open)"
)
SWEEP_TEXT = "move {joints} slowly to both ends, one after the other; press Enter when done"
FOLDED_TEXT = "fold the arm: upper arm back, forearm down onto it, jaw closed"


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "calibrate",
        help="find the range of every joint, guided; writes servos and LeRobot's file",
        description="Guided calibration as LeRobot does it, for ranges that cross the end of the "
        "encoder's scale as well. What was there before is kept beside the file.",
        epilog="example: molmoact-arm calibrate --port /dev/ttyACM0 --calibration arm.json",
    )
    parser.add_argument("--port", required=True)
    add_calibration_options(parser)
    parser.add_argument(
        "--apply",
        action="store_true",
        help="no sweep: write what the file holds to the servos",
    )
    parser.add_argument(
        "--accept-ranges",
        action="store_true",
        help="write ranges that look wrong, for an arm that is not an SO-100/SO-101",
    )
    add_port_options(parser, other_rates=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Calibrate; return 0 when servos and file agree."""
    console = Terminal()
    if not console.interactive:
        raise UserError("calibrate asks questions; run it in a terminal")
    path = read_path(arguments) if arguments.apply else None
    path = path or written_path(arguments)
    calibration = load_calibration(path) if arguments.apply else None
    check_writable(path)
    bus = open_bus(arguments.port, arguments, DEFAULT_BAUD_RATE)
    try:
        # Told to end or left by its terminal, it puts back what it wrote, as on Ctrl-C.
        with handling((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler):
            guide = Guide(console, CalibrationSession(bus), path)
            if calibration is not None:
                guide.apply(calibration)
            else:
                guide.calibrate(accept_ranges=arguments.accept_ranges)
    finally:
        bus.close()
    return 0


class Guide:
    """Leads a person through a calibration; `path` is the file it ends in."""

    def __init__(
        self,
        console: Console,
        session: CalibrationSession,
        path: Path,
        *,
        stamp: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._console = console
        self._session = session
        self._path = path
        self._stamp = stamp or time.strftime("%Y%m%d-%H%M%S")
        self._sleep = sleep

    def calibrate(self, *, accept_ranges: bool = False) -> None:
        """Find the ranges and write them. What was written is put back unless all of it was.

        Raises UserError when the person says no, and what the bus raises.
        """
        self._begin()
        try:
            for line in self._session.prepare():
                self._console.say(f"  {line}")
            self._ask_and_wait(MIDDLE_TEXT)
            self._session.take_middle()
            self._console.say("wrist_roll stays as it is: it gets the whole turn around this pose")
            self._find_ranges(accept_ranges)
            calibration, notes = self._session.calibration()
            for note in notes:
                self._console.say(f"note: {note}")
            self._write(calibration, f"the servos and to {self._path}")
            with handling(ENDING_SIGNALS, signal.SIG_IGN):
                kept = replace_calibration(calibration, self._path, self._stamp)
        except BaseException as error:
            self._put_back(error)
            raise
        if kept:
            self._console.say(f"the calibration from before: {kept}")
        self._console.say(f"calibrated: {self._path}")

    def apply(self, calibration: Calibration) -> None:
        """Write a calibration that exists to the servos; raises what `calibrate` raises."""
        for joint, motor in calibration.items():
            if motor.id != IDS[joint]:
                raise UserError(
                    f"{self._path}: {joint} has id {motor.id}, in this arm it is {IDS[joint]}; "
                    "calibrate instead"
                )
        self._begin()
        try:
            self._session.prepare()
            self._write(calibration, "the servos")
        except BaseException as error:
            self._put_back(error)
            raise
        self._console.say(f"the servos hold what {self._path} says")

    def _begin(self) -> None:
        session, console = self._session, self._console
        session.check_servos()
        holding = session.joints_with_torque()
        if holding:
            console.say(f"torque is on at {', '.join(holding)}; the arm will sink")
            self._ask_and_wait("support the arm")
            report = session.make_limp()
            if report.unconfirmed_ids:
                raise ServoFault(
                    f"servos {listed(report.unconfirmed_ids)} did not confirm torque off; switch "
                    "the arm's power off and on"
                )
        backup = beside(self._path, f"eeprom-{self._stamp}")
        try:
            session.read_memory(backup)
        except OSError as error:
            raise UserError(f"{backup}: cannot be written ({error.strerror})") from error
        console.say(f"the servos' memory as it is now: {backup}")

    def _find_ranges(self, accept: bool) -> None:
        joints: Iterable[str] = SWEPT_JOINTS
        while True:
            self._sweep(joints)
            self._ask_and_wait(FOLDED_TEXT)
            problems = self._session.problems(self._session.raw_positions())
            for joint, texts in problems.items():
                for text in texts:
                    self._console.say(f"{'accepted' if accept else 'wrong'}: {joint} {text}")
            if not problems or accept:
                return
            joints = tuple(problems)

    def _sweep(self, joints: Iterable[str]) -> None:
        session, console = self._session, self._console
        console.say(SWEEP_TEXT.format(joints=", ".join(joints)))
        session.start_sweep(joints)
        turn = 0
        while not console.pressed():
            session.follow(joints)
            if turn % SHOW_EVERY == 0:
                console.show(self._sweep_table(joints))
            turn += 1
            self._sleep(FOLLOW_S)
        console.show(self._sweep_table(joints))

    def _write(self, calibration: Calibration, where: str) -> None:
        for line in _table(calibration):
            self._console.say(line)
        if not confirmed(self._console, f"write this to {where}?"):
            raise UserError("the calibration was not written")
        self._session.write(calibration)

    def _put_back(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._console.say()
        with handling(ENDING_SIGNALS, signal.SIG_IGN):
            failures = self._session.memory.restore()
        if failures:
            for line in failures:
                self._console.say(f"not put back: {line}")
        else:
            self._console.say("the servos' memory is as it was")

    def _ask_and_wait(self, text: str) -> None:
        self._console.ask(f"{text}, then press Enter")

    def _sweep_table(self, joints: Iterable[str]) -> list[str]:
        lines = [f"  {'joint':<14} {'range':>8} {'low':>6} {'now':>6} {'high':>6}"]
        for joint in joints:
            sweep = self._session.sweeps[joint]
            lines.append(
                f"  {joint:<14} {sweep.span_deg:>6.0f} deg {sweep.low:>4} {sweep.present:>6} "
                f"{sweep.high:>6}"
            )
        return lines


def _table(calibration: Calibration) -> list[str]:
    return [
        f"  {'joint':<14} {'id':>2} {'offset':>7} {'min':>5} {'max':>5} {'range':>8}",
        *(_row(joint, motor) for joint, motor in calibration.items()),
    ]


def _row(joint: str, motor: MotorCalibration) -> str:
    span_deg = (motor.range_max - motor.range_min) * DEGREES_PER_TICK
    return (
        f"  {joint:<14} {motor.id:>2} {motor.homing_offset:>7} {motor.range_min:>5} "
        f"{motor.range_max:>5} {span_deg:>4.0f} deg"
    )
