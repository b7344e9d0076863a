"""What can go wrong between the host and the servos, as one small exception tree."""

# ruff: noqa: N818 - the names say what happened; BusError at the root says that it is an error.

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firmware_bridge.feedback import ArmReading


class BusError(Exception):
    """Anything the servo bus or the arm on it refused or failed to do."""


class PortError(BusError):
    """The serial port is absent, taken, forbidden, or was unplugged."""


class BusTimeout(BusError):
    """A servo did not answer in time; `servo_ids` are the silent ones.

    `partial` is the arm's reading with NaN at the silent joints, None when nobody answered or when
    no reading was asked for. It is for logs and displays, never a ground for the next goal.
    """

    def __init__(
        self,
        message: str,
        servo_ids: tuple[int, ...],
        partial: ArmReading | None = None,
    ) -> None:
        super().__init__(message)
        self.servo_ids = servo_ids
        self.partial = partial


class ChecksumMismatch(BusError):
    """Bytes arrived, but no frame among them had a valid checksum."""


class WrongServoId(BusError):
    """Only servos that were not asked answered."""


class EchoError(BusError):
    """The adapter returns what is sent though not told so, or does not though told so."""


class ServoFault(BusError):
    """A servo is not in the state that arming demands: its faults, model, limits or supply."""


class ArmMoved(BusError):
    """The arm moved when torque came on although every goal was its present position."""


class NotArmed(BusError):
    """A goal was sent to an arm that is not armed; on this servo it would switch torque on."""


class PowerLost(NotArmed):
    """A servo was without power for a moment: its torque is off and its limits are forgotten."""


class GoalError(BusError, ValueError):
    """Goals or torque limits that are not one allowed number per joint."""
