"""`molmoact-arm`: the servo bus of an SO-100/SO-101, real or emulated. One file per command.

```
molmoact-arm scan
molmoact-arm setup --port /dev/ttyACM0
molmoact-arm calibrate --port /dev/ttyACM0 --calibration arm.json
molmoact-arm doctor --port /dev/ttyACM0 --calibration arm.json
molmoact-arm health --port /dev/ttyACM0
molmoact-arm move --port /dev/ttyACM0 --calibration arm.json shoulder_pan=20
molmoact-arm stop --port /dev/ttyACM0
molmoact-arm emulate --link /tmp/arm --calibration /tmp/arm.json
```
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from firmware_bridge import (
    calibrate_command,
    doctor_command,
    emulate_command,
    health_command,
    hold_command,
    move_command,
    scan_command,
    setup_command,
    stop_command,
)
from firmware_bridge.calibration import CalibrationError
from firmware_bridge.command_line import CommandParser, quiet_when_unread
from firmware_bridge.emulator.faults import FaultsError
from firmware_bridge.emulator.pty_server import LinkError
from firmware_bridge.errors import BusError
from firmware_bridge.port_options import UserError

PROGRAM = "molmoact-arm"
COMMANDS = (
    scan_command,
    setup_command,
    calibrate_command,
    doctor_command,
    health_command,
    move_command,
    stop_command,
    hold_command,
    emulate_command,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `molmoact-arm`."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Set up, calibrate, check, move, stop or emulate an SO-100/SO-101 arm.",
        epilog="example: molmoact-arm scan --port /dev/ttyACM0",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


@quiet_when_unread
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


if __name__ == "__main__":
    sys.exit(main())
