"""molmoact-edge: run a bundle on an arm, or show what is in one."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge.box_file import BoxHandover
from edge.errors import EdgeError
from edge.inspect_bundle import describe_bundle
from edge.joints import JointIoError, JointReading, StopRequested
from edge.loop import END_STOP
from edge.profile import PORT_SIMULATED, ArmProfile, load_profile
from edge.replay_command import add_replay, run_replay
from edge.report import format_report
from edge.run import RunResult, run_robot
from edge.run_options import RunOptions
from firmware_bridge.arming import ArmLimits
from firmware_bridge.calibration import JOINTS, CalibrationError, load_calibration
from firmware_bridge.command_line import CommandParser
from firmware_bridge.errors import BusError
from firmware_bridge.last_words import LastWords
from firmware_bridge.watchdog_handle import StopAsked
from firmware_bridge.watchdog_settings import WatchdogTimes
from firmware_bridge.watched_arm import WatchedArm, open_watched_arm

PROGRAM = "molmoact-edge"
POLL_S = 0.05
DEPTH_MODES = ("off", "full", "incremental")
EXIT_OK, EXIT_ERROR, EXIT_SIGNAL = 0, 2, 128


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Run a quantised MolmoAct2 bundle on an SO-100/SO-101 arm.",
        epilog="example: molmoact-edge run bundle/ --profile sim --task 'pick up the red cube'",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="drive an arm, real or simulated",
        description="Drive an arm with a bundle until the time is over, Ctrl-C or a safety stop. "
        "The arm is let down softly in every case.",
        epilog="example: molmoact-edge run bundle/ --profile sim --task 'pick up the red cube' "
        "--depth incremental --seconds 20 --report report.json. "
        "Exit codes: 0 time over, 2 could not start or stopped for safety, 130 Ctrl-C, "
        "143 SIGTERM, 129 SIGHUP.",
    )
    run.add_argument("bundle", type=Path, help="folder made by 'molmoact-quantize build'")
    run.add_argument("--profile", required=True, help="name of a shipped profile, or a .yaml path")
    run.add_argument("--task", required=True, type=_task, help="what to do, in plain words")
    run.add_argument("--port", help="serial port of a real arm, best under /dev/serial/by-id")
    run.add_argument("--calibration", type=Path, metavar="FILE", help="LeRobot calibration file")
    run.add_argument(
        "--depth", choices=DEPTH_MODES, default="off", help="depth reasoning (default off)"
    )
    run.add_argument("--norm-tag", help="which robot's statistics to use, when the bundle has many")
    run.add_argument("--seconds", type=_seconds, help="how long; without it until Ctrl-C")
    run.add_argument(
        "--dead-man",
        action="store_true",
        help="move only while 'molmoact-arm hold-to-run' is held in another terminal",
    )
    run.add_argument("--seed", type=_seed, default=0, help="of the simulated desk (default 0)")
    run.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON")
    run.add_argument("--arrays", type=Path, metavar="FILE", help="write every tick as .npz")
    run.add_argument("--record", type=Path, metavar="DIR", help="write video.mp4 and timeline.png")
    run.add_argument(
        "--black-box",
        type=Path,
        metavar="FILE",
        help="record the newest ticks there (default: a dated file, see the board profile)",
    )
    show = commands.add_parser(
        "inspect",
        help="show what is in a bundle",
        description="Show a bundle's source, recipe, parts, bytes and bits per weight.",
        epilog="example: molmoact-edge inspect bundle/",
    )
    show.add_argument("bundle", type=Path, help="folder made by 'molmoact-quantize build'")
    add_replay(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; see the exit codes in `molmoact-edge run --help`."""
    args = build_parser().parse_args(argv)
    try:
        return {"run": _run, "inspect": _inspect, "replay": _replay}[args.command](args)
    except EdgeError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return EXIT_SIGNAL + signal.SIGINT


class ServoArm:
    """The servo bus as the loop sees it: every bus error is a JointIoError.

    Reading raises StopRequested when the arm is to be let down: somebody asked for it, or the
    watchdog has taken it over, or is gone.
    """

    def __init__(self, arm: WatchedArm) -> None:
        self._arm = arm

    def read(self, deadline_s: float | None = None) -> JointReading:
        """Measure every joint in one bus transaction, over by `deadline_s`."""
        with _as_edge_errors():
            return self._arm.read(deadline_s)

    def write(self, positions: np.ndarray) -> None:
        """Send one goal per joint in one frame."""
        with _as_edge_errors():
            self._arm.write_goals(positions)

    def give_torque(self, box: BoxHandover | None = None) -> None:
        """Check the servos and bring torque up without moving; `box` is for the watchdog."""
        with _as_edge_errors():
            if box is not None:
                words = LastWords(
                    n_bytes=box.n_bytes,
                    reason_offset=box.reason_offset,
                    reason_bytes=box.reason_bytes,
                    allocated=box.allocated,
                    path=box.path,
                )
                self._arm.watchdog.hand_record(words, box.descriptor)
            self._arm.arm()

    def soft_stop(self) -> None:
        """Let the arm down; JointIoError names the servos that did not confirm."""
        if self._arm.bus.port_lost:
            wait_s = self._arm.watchdog.times.replug_s
            _say(f"the port is lost; plug it in again within {wait_s:g} s to let the arm down")
        report = self._arm.soft_stop()
        if report.unconfirmed_ids:
            listed = ", ".join(str(servo_id) for servo_id in report.unconfirmed_ids)
            raise JointIoError(
                f"servo {listed} did not confirm torque off; switch the arm's power off"
            )

    def close(self) -> None:
        """Make the arm limp if it is not, and give the port back."""
        self._arm.close()


def open_servo_arm(
    port: str,
    calibration_path: Path,
    profile: ArmProfile,
    *,
    dead_man: bool = False,
    simulated: bool = False,
) -> ServoArm:
    """Open the bus at `port` for reading and start its watchdog; JointIoError if it cannot be.

    With `dead_man` waits until somebody holds the switch; torque is refused when it was let go
    since. The port of a `simulated` arm goes with this program: nobody waits for it to be plugged
    in again.
    """
    names = tuple(joint.name for joint in profile.joints)
    if names != JOINTS:
        raise JointIoError(
            f"arm profile {profile.name} lists {', '.join(names)}; "
            f"the bus needs {', '.join(JOINTS)}"
        )
    limits = ArmLimits(
        torque_limits_per_mille=tuple(joint.torque_limit_permille for joint in profile.joints),
        acceleration_deg_s2=profile.arming.acceleration_deg_s2,
        arming_max_temperature_c=profile.arming.max_temperature_c,
        arming_max_motion_deg=profile.arming.max_motion_deg,
        ramp_s=profile.arming.ramp_s,
    )
    try:
        calibration = load_calibration(calibration_path)
        for joint in profile.joints:
            if calibration[joint.name].id != joint.servo_id:
                raise JointIoError(
                    f"{calibration_path}: {joint.name} is servo {calibration[joint.name].id}, "
                    f"arm profile {profile.name} says {joint.servo_id}; correct one of them"
                )
        times = profile.watchdog
        times = WatchdogTimes(
            hold_s=times.hold_s,
            soften_s=times.soften_s,
            slow_s=times.slow_s,
            replug_s=0.0 if simulated else times.replug_s,
        )
        arm = open_watched_arm(port, calibration, limits, times, program=PROGRAM, dead_man=dead_man)
        if dead_man:
            _wait_until_held(arm, port)
        return ServoArm(arm)
    except (BusError, CalibrationError) as error:
        raise JointIoError(str(error)) from error


def _wait_until_held(arm: WatchedArm, port: str) -> None:
    _say(f"waiting for the dead man's switch: molmoact-arm hold-to-run --port {port}")
    try:
        while not arm.watchdog.is_held:
            arm.watchdog.check()
            time.sleep(POLL_S)
    except BaseException:
        arm.close()
        raise


@contextlib.contextmanager
def _as_edge_errors() -> Iterator[None]:
    try:
        yield
    except StopAsked as asked:
        raise StopRequested(str(asked)) from asked
    except BusError as error:
        raise JointIoError(str(error)) from error


def _run(args: argparse.Namespace) -> int:
    options = RunOptions(
        bundle=args.bundle,
        task=args.task,
        depth=args.depth,
        norm_tag=args.norm_tag,
        port=args.port,
        calibration=args.calibration,
        seconds=args.seconds,
        seed=args.seed,
        report=args.report,
        arrays=args.arrays,
        record=args.record,
        black_box=args.black_box,
    )
    profile = load_profile(args.profile)
    open_arm = functools.partial(
        open_servo_arm, dead_man=args.dead_man, simulated=profile.port == PORT_SIMULATED
    )
    result = run_robot(options, profile, open_arm, _say)
    exit_code = _tell(result)
    if result.policy_hangs:
        # Ending the interpreter under an engine that computes can crash and hide the exit code.
        sys.stdout.flush()
        os._exit(exit_code)
    return exit_code


def _tell(result: RunResult) -> int:
    print(format_report(result.report))
    if result.fault_trace is not None:
        print(result.fault_trace, file=sys.stderr, end="")
    problems = []
    if result.end.how == END_STOP:
        problems.append(f"stopped for safety: {result.end.reason}")
    if result.end.soft_stop_error is not None:
        problems.append(f"soft stop: {result.end.soft_stop_error}")
    if result.output_error is not None:
        problems.append(result.output_error)
    if problems:
        return _fail("; ".join(problems))
    if result.signal_number is not None:
        return EXIT_SIGNAL + result.signal_number
    return EXIT_OK


def _inspect(args: argparse.Namespace) -> int:
    print(describe_bundle(args.bundle))
    return EXIT_OK


def _replay(args: argparse.Namespace) -> int:
    run_replay(args)
    return EXIT_OK


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone; the arm is still to be stopped
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def _fail(message: str) -> int:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return EXIT_ERROR


def _task(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the task is empty; say what the arm should do")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0.0):
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0 is needed")
    return seconds


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text}: a seed is a whole number of 0 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
