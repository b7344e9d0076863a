"""`molmoact-arm move`: joints to given positions, slowly, to try an arm out."""

from __future__ import annotations

import argparse
import math
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from firmware_bridge.arm import Arm
from firmware_bridge.arming import ArmLimits
from firmware_bridge.calibration import (
    DEGREES_PER_TICK,
    GRIPPER,
    JOINTS,
    Calibration,
    load_calibration,
)
from firmware_bridge.calibration_files import add_calibration_options, read_path
from firmware_bridge.console import Console, Terminal, confirmed
from firmware_bridge.mover import MoveLimits, Mover
from firmware_bridge.port_options import UserError, add_port_options, handling, listed, number_in
from firmware_bridge.watchdog_settings import WatchdogTimes
from firmware_bridge.watched_arm import open_watched_arm

# Slow enough to step back from; a third of what a run allows.
SPEED_DEG_S, MAX_SPEED_DEG_S = 20.0, 60.0
ACCELERATION_DEG_S2 = 60.0
# 8 deg is 37 % of full duty at P = 16, under the 80 % where overload protection latches, and above
# the 6 deg that gravity is reported to bend the elbow by. 4 percent of the gripper are 20 %, under
# the 25 % that LeRobot sets there.
LEAD_DEG, MAX_LEAD_DEG, GRIPPER_LEAD_PERCENT = 8.0, 12.0, 4.0
RECKONED_P = 16
MARGIN_DEG, MARGIN_PERCENT = 2.0, 1.0
# It may turn all the way by its calibration, but its cable may not.
WRIST_ROLL_DEG = 150.0
LIMITS = ArmLimits(
    torque_limits_per_mille=(400, 650, 650, 450, 450, 400),
    acceleration_deg_s2=440.0,
    arming_max_temperature_c=55.0,
    arming_max_motion_deg=2.0,
    max_position_gain=RECKONED_P,
    ramp_s=1.0,
)
MAX_TEMPERATURE_C = 60.0
TIMES = WatchdogTimes(hold_s=0.4, soften_s=1.5, slow_s=4.0, replug_s=15.0)
MIDDLE = dict.fromkeys(JOINTS[:-1], 0.0)
# Folded as for transport: here the arm lies on itself and sinks no further when it goes limp.
REST = dict(zip(JOINTS, (0.0, -95.0, 90.0, 45.0, 0.0, 5.0), strict=True))


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "move",
        help="move joints to given positions, slowly",
        description="Move joints to positions in degrees from the middle of their range, the "
        "gripper to a percentage, in a straight line of all joints. Nothing looks out for the "
        "table or the arm itself: stay with it. It holds at the end until Ctrl-C, then goes limp. "
        "'molmoact-arm stop' stops it too.",
        epilog="example: molmoact-arm move --port /dev/ttyACM0 --calibration arm.json "
        "shoulder_pan=20 gripper=50",
    )
    parser.add_argument(
        "positions", nargs="*", metavar="JOINT=VALUE", help=f"joints: {', '.join(JOINTS)}"
    )
    parser.add_argument("--port", required=True)
    add_calibration_options(parser)
    parser.add_argument(
        "--to",
        choices=("middle", "rest"),
        help="the middle of every range, or folded for going limp (by way of the middle)",
    )
    parser.add_argument(
        "--speed",
        type=number_in(1.0, MAX_SPEED_DEG_S, "deg/s"),
        default=SPEED_DEG_S,
        metavar="DEG_S",
        help=f"degrees, gripper percent, per second, 1..{MAX_SPEED_DEG_S:g} (default %(default)g)",
    )
    parser.add_argument(
        "--lead",
        type=number_in(2.0, MAX_LEAD_DEG, "deg"),
        default=LEAD_DEG,
        metavar="DEG",
        help="how far goals may be ahead, which is how hard a blocked joint pushes, "
        f"2..{MAX_LEAD_DEG:g} (default %(default)g)",
    )
    parser.add_argument(
        "--hold-s",
        type=number_in(0.0, math.inf, "s"),
        metavar="S",
        help="hold so long at the end, then go limp (default: until Ctrl-C; 0 with --to rest)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before torque comes on")
    add_port_options(parser, other_rates=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Move and go limp; return 0 when the target was reached. Ctrl-C makes the arm limp too."""
    console = Terminal()
    path = read_path(arguments)
    if path is None:
        raise UserError("moving needs the arm's calibration: --calibration FILE or --id NAME")
    calibration = load_calibration(path)
    stages = targets(arguments.positions, arguments.to, calibration)
    if not arguments.yes and not console.interactive:
        raise UserError("move asks before torque comes on; run it in a terminal, or give --yes")
    hold_s = arguments.hold_s
    if hold_s is None:
        hold_s = 0.0 if arguments.to == "rest" else math.inf
    arm = open_watched_arm(
        arguments.port,
        calibration,
        LIMITS,
        TIMES,
        program="molmoact-arm move",
        reply_timeout_s=arguments.reply_timeout_ms / 1000.0,
        echo=arguments.echo,
    )
    limits = MoveLimits(
        speed_deg_s=arguments.speed,
        acceleration_deg_s2=ACCELERATION_DEG_S2,
        lead_deg=arguments.lead,
        gripper_lead_percent=GRIPPER_LEAD_PERCENT,
        max_temperature_c=MAX_TEMPERATURE_C,
    )
    try:
        with handling((signal.SIGTERM, signal.SIGHUP), signal.default_int_handler):
            move(console, arm, Mover(arm, limits), stages, hold_s, ask=not arguments.yes)
    finally:
        arm.close()
    return 0


def targets(
    words: Sequence[str], named: str | None, calibration: Calibration
) -> list[dict[str, float]]:
    """Return the poses to go to, one after the other, each with the joints it concerns.

    Raises UserError for words that are no positions and for positions outside the range.
    """
    if named and words:
        raise UserError("give positions or --to, not both")
    if named:
        stages = [MIDDLE] if named == "middle" else [MIDDLE, REST]
        return [_clipped(stage, calibration) for stage in stages]
    if not words:
        raise UserError("say where to: JOINT=VALUE such as shoulder_pan=20, or --to middle")
    wanted = dict(_position(word) for word in words)
    if len(wanted) != len(words):
        raise UserError("a joint is given twice")
    for joint, value in wanted.items():
        low, high = allowed_range(joint, calibration)
        if not low <= value <= high:
            unit = "percent" if joint == GRIPPER else "deg"
            raise UserError(f"{joint}={value:g}: its range is {low:.1f}..{high:.1f} {unit}")
    return [wanted]


def allowed_range(joint: str, calibration: Calibration) -> tuple[float, float]:
    """Return the lowest and highest position of a joint, a margin inside its calibration."""
    if joint == GRIPPER:
        return MARGIN_PERCENT, 100.0 - MARGIN_PERCENT
    motor = calibration[joint]
    half_deg = (motor.range_max - motor.range_min) / 2 * DEGREES_PER_TICK - MARGIN_DEG
    half_deg = min(half_deg, WRIST_ROLL_DEG) if joint == "wrist_roll" else half_deg
    return -half_deg, half_deg


def move(
    console: Console,
    arm: Arm,
    mover: Mover,
    stages: Sequence[Mapping[str, float]],
    hold_s: float,
    *,
    ask: bool,
) -> None:
    """Arm, go from pose to pose, hold, and let the arm down whatever happens.

    Raises MoveStopped and what the bus raises.
    """
    present = arm.read().positions
    for joint, value in stages[-1].items():
        console.say(f"  {joint:<14} {present[JOINTS.index(joint)]:>7.1f} -> {value:.1f}")
    if ask and not confirmed(console, "torque comes on and the arm moves there; go?"):
        raise UserError("nothing was moved")
    try:
        arm.arm()
        for stage in stages:
            reading = mover.go(stage)
        for joint, value in stages[-1].items():
            reached = reading.positions[JOINTS.index(joint)]
            console.say(f"  {joint:<14} at {reached:.1f}, {abs(reached - value):.1f} beside")
        if hold_s > 0.0:
            how_long = "until Ctrl-C" if math.isinf(hold_s) else f"for {hold_s:g} s"
            console.say(f"holding {how_long}, then the arm goes limp: be ready to support it")
            mover.hold(hold_s)
    except KeyboardInterrupt:
        console.say()
        raise
    finally:
        report = arm.soft_stop()
        if report.unconfirmed_ids:
            console.say(
                f"servos {listed(report.unconfirmed_ids)} did not confirm torque off; cut the power"
            )
        else:
            console.say("limp")


def _clipped(stage: Mapping[str, float], calibration: Calibration) -> dict[str, float]:
    ranges = {joint: allowed_range(joint, calibration) for joint in stage}
    return {joint: float(np.clip(value, *ranges[joint])) for joint, value in stage.items()}


def _position(word: str) -> tuple[str, float]:
    joint, _, text = word.partition("=")
    if joint not in JOINTS:
        raise UserError(f"{word!r}: no joint of this arm; joints are {', '.join(JOINTS)}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{word!r}: write a joint and a number, such as {joint}=20")
    return joint, value
