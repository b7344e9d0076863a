"""molmoact-edge: run a bundle on an arm, or show what is in one."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from edge.box_file import BoxHandover
from edge.errors import EdgeError
from edge.health_check import add_check, run_check
from edge.inspect_bundle import describe_bundle
from edge.joints import JointIoError, JointReading, StopRequested
from edge.loop import END_STOP
from edge.profile import PORT_SIMULATED, ArmProfile, load_profile
from edge.replay_command import add_replay, run_replay
from edge.report import format_report
from edge.run import RobotArm, RunResult, run_robot
from edge.run_arguments import add_run, run_options
from firmware_bridge.arm_pair import ArmPair
from firmware_bridge.arming import ArmLimits
from firmware_bridge.calibration import JOINTS, CalibrationError, load_calibration
from firmware_bridge.command_line import CommandParser, quiet_when_unread
from firmware_bridge.errors import BusError
from firmware_bridge.last_words import LastWords
from firmware_bridge.watchdog_handle import StopAsked
from firmware_bridge.watchdog_settings import WatchdogTimes
from firmware_bridge.watched_arm import WatchedArm, open_watched_arm

PROGRAM = "molmoact-edge"
POLL_S = 0.05
MOST_ARMS = 2
EXIT_OK, EXIT_ERROR, EXIT_SIGNAL = 0, 2, 128


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Run a quantised MolmoAct2 bundle on an SO-100/SO-101 arm.",
        epilog="example: molmoact-edge run bundle/ --profile sim --task 'pick up the red cube'",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_run(commands)
    show = commands.add_parser(
        "inspect",
        help="show what is in a bundle",
        description="Show a bundle's source, recipe, parts, bytes and bits per weight.",
        epilog="example: molmoact-edge inspect bundle/",
    )
    show.add_argument("bundle", type=Path, help="folder made by 'molmoact-quantize build'")
    add_check(commands)
    add_replay(commands)
    return parser


@quiet_when_unread
def main(
    argv: list[str] | None = None, wrap_arm: Callable[[RobotArm], RobotArm] | None = None
) -> int:
    """Run a command; see the exit codes in `molmoact-edge run --help`.

    `wrap_arm` puts something between `run` and the arm that it opens.
    """
    args = build_parser().parse_args(argv)
    args.wrap_arm = wrap_arm
    commands = {"run": _run, "check": _check, "inspect": _inspect, "replay": _replay}
    try:
        return commands[args.command](args)
    except EdgeError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return EXIT_SIGNAL + signal.SIGINT


class ServoArm:
    """The servo bus as the loop sees it: every bus error is a JointIoError.

    Reading raises StopRequested when the arm is to be let down: somebody asked for it, or the
    watchdog has taken it over, or is gone.
    """

    def __init__(self, arms: Sequence[WatchedArm]) -> None:
        """Take one arm, or two that move as one."""
        self._arms = tuple(arms)
        self._arm = arms[0] if len(arms) == 1 else ArmPair(*arms)

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
                self._arms[0].watchdog.hand_record(words, box.descriptor)
            self._arm.arm()

    def soft_stop(self) -> None:
        """Let the arm down; JointIoError names the servos that did not confirm."""
        for arm in self._arms:
            if arm.bus.port_lost:
                name, wait_s = arm.bus.transport.name, arm.watchdog.times.replug_s
                _say(f"{name} is lost; plug it in again within {wait_s:g} s to let the arm down")
        report = self._arm.soft_stop()
        if report.unconfirmed_ids:
            listed = ", ".join(str(servo_id) for servo_id in report.unconfirmed_ids)
            raise JointIoError(
                f"servo {listed} did not confirm torque off; switch the arm's power off"
            )

    def close(self) -> None:
        """Make the arm limp if it is not, and give the port back."""
        self._arm.close()


def open_servo_arms(
    ports: Sequence[str],
    calibrations: Sequence[Path],
    profile: ArmProfile,
    *,
    dead_man: bool = False,
    simulated: bool = False,
) -> ServoArm:
    """Open the bus of every arm for reading and start its watchdog; JointIoError if it cannot be.

    With `dead_man` waits until somebody holds the switch, at the first port; torque is refused when
    it was let go since. The port of a `simulated` arm goes with this program: nobody waits for it
    to be plugged in again.
    """
    if profile.n_buses > MOST_ARMS:
        raise JointIoError(f"arm profile {profile.name} has {profile.n_buses} arms, most are 2")
    arms: list[WatchedArm] = []
    try:
        for bus, (port, path) in enumerate(zip(ports, calibrations, strict=True)):
            switch = dead_man and bus == 0
            arms.append(_open_arm(port, path, profile, bus, dead_man=switch, simulated=simulated))
        if dead_man:
            _wait_until_held(arms[0], ports[0])
    except BaseException as error:
        for arm in arms:
            arm.close()
        if isinstance(error, (BusError, CalibrationError)):
            raise JointIoError(str(error)) from error
        raise
    return ServoArm(arms)


def open_servo_arm(port: str, calibration: Path, profile: ArmProfile) -> ServoArm:
    """Open the bus of a single arm; see `open_servo_arms`."""
    return open_servo_arms((port,), (calibration,), profile)


def _open_arm(
    port: str, path: Path, profile: ArmProfile, bus: int, *, dead_man: bool, simulated: bool
) -> WatchedArm:
    joints, prefix = profile.bus_joints(bus), f"{profile.arms[bus].name}_"
    names = tuple(joint.name.removeprefix(prefix) for joint in joints)
    if names != JOINTS:
        raise JointIoError(
            f"arm profile {profile.name} lists {', '.join(names)}; "
            f"the bus needs {', '.join(JOINTS)}"
        )
    arming, times = profile.arming, profile.watchdog
    limits = ArmLimits(
        torque_limits_per_mille=tuple(joint.torque_limit_permille for joint in joints),
        acceleration_deg_s2=arming.acceleration_deg_s2,
        arming_max_temperature_c=arming.max_temperature_c,
        arming_max_motion_deg=arming.max_motion_deg,
        max_position_gain=arming.max_position_gain,
        ramp_s=arming.ramp_s,
    )
    calibration = load_calibration(path)
    for joint, name in zip(joints, names, strict=True):
        if calibration[name].id != joint.servo_id:
            raise JointIoError(
                f"{path}: {name} is servo {calibration[name].id}, "
                f"arm profile {profile.name} says {joint.servo_id}; correct one of them"
            )
    return open_watched_arm(
        port,
        calibration,
        limits,
        WatchdogTimes(
            hold_s=times.hold_s,
            soften_s=times.soften_s,
            # One arm of a pair is silent while the other one is armed.
            slow_s=times.slow_s + (profile.n_buses - 1) * arming.ramp_s,
            replug_s=0.0 if simulated else times.replug_s,
        ),
        program=PROGRAM,
        dead_man=dead_man,
    )


def _wait_until_held(arm: WatchedArm, port: str) -> None:
    _say(f"waiting for the dead man's switch: molmoact-arm hold-to-run --port {port}")
    while not arm.watchdog.is_held:
        arm.watchdog.check()
        time.sleep(POLL_S)


@contextlib.contextmanager
def _as_edge_errors() -> Iterator[None]:
    try:
        yield
    except StopAsked as asked:
        raise StopRequested(str(asked)) from asked
    except BusError as error:
        raise JointIoError(str(error)) from error


def _run(args: argparse.Namespace) -> int:
    profile = load_profile(args.profile)
    open_arm = functools.partial(
        open_servo_arms, dead_man=args.dead_man, simulated=profile.port == PORT_SIMULATED
    )
    wrap = args.wrap_arm or (lambda arm: arm)
    result = run_robot(run_options(args), profile, lambda *where: wrap(open_arm(*where)), _say)
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


def _check(args: argparse.Namespace) -> int:
    run_check(args)
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


if __name__ == "__main__":
    sys.exit(main())
