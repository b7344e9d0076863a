"""Two arms on two ports, moved as one: twelve joints, the left arm's first.

They are read at the same time, get torque both or neither, and go soft together whatever happens
to one of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from firmware_bridge.arm import Arm, checked_goals
from firmware_bridge.arming import ArmLimits
from firmware_bridge.calibration import JOINTS, Calibration
from firmware_bridge.errors import BusError, BusTimeout, PortError
from firmware_bridge.feedback import ArmReading
from firmware_bridge.soft_stop import SoftStopReport
from firmware_bridge.sync_read import SyncRead

SIDES = ("left", "right")
PAIR_JOINTS = tuple(f"{side}_{joint}" for side in SIDES for joint in JOINTS)


@dataclass(frozen=True, slots=True)
class PairStopReport:
    """How the soft stops of both arms went; servos are named as in `left 3`."""

    left: SoftStopReport
    right: SoftStopReport

    @property
    def limp_ids(self) -> tuple[str, ...]:
        """Servos that read back torque off."""
        return self._named("limp_ids", " ")

    @property
    def unconfirmed_ids(self) -> tuple[str, ...]:
        """Servos that did not."""
        return self._named("unconfirmed_ids", " ")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went wrong on the way."""
        return self._named("warnings", " arm: ")

    def _named(self, name: str, joint: str) -> tuple[str, ...]:
        return tuple(
            f"{side}{joint}{entry}"
            for side in SIDES
            for entry in getattr(getattr(self, side), name)
        )


class ArmPair:
    """Two arms with the methods of one; positions are (12,), errors say which arm it was."""

    def __init__(self, left: Arm, right: Arm) -> None:
        self.left = left
        self.right = right

    @classmethod
    def open(
        cls,
        ports: Sequence[str],
        calibrations: Sequence[Calibration],
        limits: ArmLimits,
        **options: Any,
    ) -> ArmPair:
        """Open both ports, left first, or none; `options` are those of `Arm.open`."""
        if os.path.realpath(ports[0]) == os.path.realpath(ports[1]):
            raise PortError(f"{ports[0]} and {ports[1]} are one port; give each arm its own")
        left = Arm.open(ports[0], calibrations[0], limits, **options)
        try:
            return cls(left, Arm.open(ports[1], calibrations[1], limits, **options))
        except BaseException:
            left.close()
            raise

    @property
    def armed(self) -> bool:
        """Whether both arms take goals."""
        return self.left.armed and self.right.armed

    def read(self, deadline_s: float | None = None) -> ArmReading:
        """Read both arms at the same time; see `Arm.read`. `t_s` is the older of both times.

        When an arm fails, what the other one said is in `partial` of a BusTimeout.
        """
        started = _outcomes(
            partial(self.left.start_read, deadline_s), partial(self.right.start_read, deadline_s)
        )
        readings = _outcomes(
            partial(_finish, self.left, started[0]), partial(_finish, self.right, started[1])
        )
        _raise_first(readings)
        return _joined(readings)

    def write_goals(self, positions: np.ndarray) -> None:
        """Send goals, (12,) degrees and gripper percent; see `Arm.write_goals`.

        Unless both arms are armed and all goals are numbers, nothing is sent to either.
        """
        left, right = np.split(checked_goals(positions, PAIR_JOINTS), 2)
        self.check_armed()
        _both(partial(self.left.write_goals, left), partial(self.right.write_goals, right))

    def read_torque_limits(self) -> np.ndarray:
        """Return the torque limits in the servos, (12,) int64, per mille of stall torque."""
        return np.concatenate(_both(self.left.read_torque_limits, self.right.read_torque_limits))

    def write_torque_limits(self, per_mille: np.ndarray) -> None:
        """Set the torque limits, (12,) per mille of stall torque; see `Arm.write_torque_limits`."""
        left, right = np.split(checked_goals(per_mille, PAIR_JOINTS), 2)
        _both(
            partial(self.left.write_torque_limits, left),
            partial(self.right.write_torque_limits, right),
        )

    def check_armed(self) -> None:
        """Raise NotArmed, or PowerLost, unless goals may be sent to both arms."""
        _both(self.left.check_armed, self.right.check_armed)

    def check(self) -> None:
        """Raise ServoFault or a bus error unless every servo may be given torque; only reads."""
        _both(self.left.check, self.right.check)

    def arm(self) -> None:
        """Bring up the torque of both arms, one after the other, or of neither; see `Arm.arm`."""
        self.check()
        with _naming("left"):
            self.left.arm()
        try:
            with _naming("right"):
                self.right.arm()
        except BaseException:
            self.left.soft_stop()
            raise

    def soft_stop(self, **options: Any) -> PairStopReport:
        """Let both arms sink and go limp at the same time; see `Arm.soft_stop`."""
        reports: list[SoftStopReport] = []
        thread = threading.Thread(
            target=lambda: reports.append(self.right.soft_stop(**options)), name="soft stop"
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads are to be had: one after the other, then
            left = self.left.soft_stop(**options)
            return PairStopReport(left, self.right.soft_stop(**options))
        try:
            left = self.left.soft_stop(**options)
        finally:
            thread.join()
        return PairStopReport(left, reports[0])

    def close(self) -> None:
        """Make both arms limp if they may have torque, and give both ports back."""
        try:
            if self.left.torque_may_be_on or self.right.torque_may_be_on:
                self.soft_stop()
        finally:
            try:
                self.left.close()
            finally:
                self.right.close()


def _finish(arm: Arm, started: SyncRead | BusError) -> ArmReading:
    if isinstance(started, BusError):
        raise started
    return arm.finish_read(started)


def _outcomes(*calls: Callable[[], Any]) -> list[Any]:
    """Make the call of each side; return what each gave, or the BusError it raised."""
    outcomes = []
    for side, call in zip(SIDES, calls, strict=True):
        try:
            with _naming(side):
                outcomes.append(call())
        except BusError as error:
            outcomes.append(error)
    return outcomes


def _both(*calls: Callable[[], Any]) -> list[Any]:
    """Make the call of each side, also when the first fails; return what they gave."""
    outcomes = _outcomes(*calls)
    _raise_first(outcomes)
    return outcomes


def _raise_first(outcomes: list[Any]) -> None:
    """Raise the worst error among the outcomes; a timeout, which may pass, is the least bad.

    A timeout is given what both arms said, as far as they said anything.
    """
    errors = [outcome for outcome in outcomes if isinstance(outcome, BusError)]
    for error in errors:
        if not isinstance(error, BusTimeout):
            raise error
    if errors:
        text = "; ".join(str(error) for error in errors)
        silent = tuple(servo_id for error in errors for servo_id in error.servo_ids)
        raise BusTimeout(text, silent, _joined(outcomes))


def _joined(outcomes: list[Any]) -> ArmReading | None:
    """Join two readings; of a timeout take what was heard. None when there is no reading."""
    readings = [
        outcome.partial if isinstance(outcome, BusTimeout) else outcome for outcome in outcomes
    ]
    heard = [reading for reading in readings if isinstance(reading, ArmReading)]
    if not heard:
        return None
    halves = [reading if isinstance(reading, ArmReading) else _NOTHING for reading in readings]
    columns = {
        field.name: np.concatenate([getattr(half, field.name) for half in halves])
        for field in fields(ArmReading)
        if field.name != "t_s"
    }
    return ArmReading(t_s=min(reading.t_s for reading in heard), **columns)


_SILENT = np.full(len(JOINTS), np.nan)
_NOTHING = ArmReading(np.nan, *([_SILENT] * 6), status=np.zeros(len(JOINTS), dtype=np.uint8))


@contextmanager
def _naming(side: str) -> Iterator[None]:
    """Have bus errors say which arm they are about."""
    try:
        yield
    except BusError as error:
        if not str(error).startswith(f"{side} arm: "):
            error.args = (f"{side} arm: {error}", *error.args[1:])
        raise
