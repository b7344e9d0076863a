"""`molmoact-arm setup`: ids and baud rate of new servos, one at a time, gripper first."""

from __future__ import annotations

import argparse
from typing import Any

from firmware_bridge.calibration import JOINTS
from firmware_bridge.console import Console, Terminal
from firmware_bridge.errors import BusError, PortError
from firmware_bridge.port_options import UserError, add_port_options, open_bus
from firmware_bridge.servo_setup import ServoSetup
from firmware_bridge.soft_stop import status_text


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "setup",
        help="give new servos their ids and baud rate, one at a time",
        description="Give each servo its id (6 for the gripper down to 1 for shoulder_pan) and "
        "1000000 baud. Only one servo may be plugged in at a time.",
        epilog="example: molmoact-arm setup --port /dev/ttyACM0",
    )
    parser.add_argument("--port", required=True)
    parser.add_argument("--joint", choices=JOINTS, help="start with this joint (default gripper)")
    parser.add_argument("--only", action="store_true", help="end after --joint")
    parser.add_argument(
        "--yes", action="store_true", help="do not ask: the servo of --joint is plugged in alone"
    )
    add_port_options(parser, other_rates=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Set servo after servo; return 0 when the last one is done."""
    console = Terminal()
    if arguments.yes and not arguments.joint:
        raise UserError("--yes sets one servo; say which with --joint")
    if arguments.only and not arguments.joint:
        raise UserError("--only needs the joint to set; say which with --joint")
    setup = ServoSetup(
        lambda baud_rate: open_bus(arguments.port, arguments, baud_rate), echo=arguments.echo
    )
    if arguments.yes:
        console.say(set_one(setup, arguments.joint))
        return 0
    set_all(console, setup, _order(arguments.joint, arguments.only), arguments.port)
    return 0


def set_all(console: Console, setup: ServoSetup, joints: list[str], port: str) -> None:
    """Ask for each servo and set it; a mistake is explained and asked for again.

    Raises PortError when the port is gone. Ctrl-C says how to go on.
    """
    joint = joints[0]
    try:
        for number, joint in enumerate(joints, start=1):
            console.say(f"[{number}/{len(joints)}] {joint}: id {JOINTS.index(joint) + 1}")
            _set_with_retries(console, setup, joint)
    except KeyboardInterrupt:
        console.say(f"\nto go on from here: molmoact-arm setup --port {port} --joint {joint}")
        raise
    console.say(
        "done. Chain the servos from shoulder_pan (1, at the adapter) to gripper (6), then run "
        "'molmoact-arm scan'"
    )


def set_one(setup: ServoSetup, joint: str) -> str:
    """Set the one servo that is plugged in and return what was done, in a line."""
    servo_id = JOINTS.index(joint) + 1
    found = setup.find()
    changed = setup.assign(found, servo_id)
    state = found.state
    was = f"was id {state.servo_id} at {found.baud_rate} baud" if changed else "was so already"
    faults = f"; it reports {status_text(state.status)}" if state.status else ""
    return (
        f"  {joint} is id {servo_id} at 1000000 baud, locked ({was}; {state.build} build, "
        f"firmware {state.firmware}){faults}"
    )


def _set_with_retries(console: Console, setup: ServoSetup, joint: str) -> None:
    while True:
        console.ask(
            f"  plug the {joint} servo, and no other, into the powered adapter, then press Enter"
        )
        try:
            console.say(set_one(setup, joint))
            return
        except PortError:
            raise
        except (UserError, BusError) as error:
            console.say(f"  {error}")


def _order(first: str | None, only: bool) -> list[str]:
    joints = list(reversed(JOINTS))
    start = joints.index(first) if first else 0
    return joints[start : start + 1] if only else joints[start:]
