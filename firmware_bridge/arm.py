"""An SO-100/SO-101 arm in degrees and gripper percent, on its servo bus.

```python
arm = Arm.open("/dev/ttyACM0", load_calibration(path), limits)
reading = arm.read()
arm.arm()
arm.write_goals(reading.positions)
arm.soft_stop()
arm.close()
```
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from firmware_bridge import registers
from firmware_bridge.arming import ArmLimits, bring_up_torque, check_ready
from firmware_bridge.bus import DEFAULT_REPLY_TIMEOUT_S, Bus, Reply
from firmware_bridge.calibration import (
    JOINTS,
    Calibration,
    position_from_ticks,
    ticks_from_position,
    velocity_from_ticks,
)
from firmware_bridge.errors import BusTimeout, GoalError, NotArmed
from firmware_bridge.registers import FEEDBACK_ADDRESS, FEEDBACK_BYTES, Register
from firmware_bridge.soft_stop import RAMP_S, SoftStopReport, soft_stop
from firmware_bridge.transport import DEFAULT_BAUD_RATE, SerialTransport

MA_PER_RAW = 6.5


@dataclass(frozen=True, slots=True)
class ArmReading:
    """What all servos reported in one block read; arrays are (6,) in joint order.

    `positions` are degrees and gripper percent, `velocities` the same per second, `loads` the
    signed motor duty -1..1, `status` the fault bits of each reply (`StatusBit`), `t_s` the
    monotonic time at which the last reply was in.
    """

    t_s: float
    positions: np.ndarray
    velocities: np.ndarray
    loads: np.ndarray
    currents_ma: np.ndarray
    voltages_v: np.ndarray
    temperatures_c: np.ndarray
    status: np.ndarray


class Arm:
    """Six servos with a calibration and limits. Owned by one thread; torque only through `arm`."""

    def __init__(
        self,
        bus: Bus,
        calibration: Calibration,
        limits: ArmLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bus = bus
        self.armed = False
        self._motors = [(joint, calibration[joint]) for joint in JOINTS]
        self._ids = [motor.id for _, motor in self._motors]
        self._calibration = calibration
        self._limits = limits
        self._clock = clock
        self._sleep = sleep

    @classmethod
    def open(
        cls,
        port: str,
        calibration: Calibration,
        limits: ArmLimits,
        *,
        baud_rate: int = DEFAULT_BAUD_RATE,
        reply_timeout_s: float = DEFAULT_REPLY_TIMEOUT_S,
        echo: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Arm:
        """Open the port and return the arm, which may be read but not moved before `arm`.

        Raises PortError. `echo` is for adapters that return every byte sent.
        """
        transport = SerialTransport(port, baud_rate)
        bus = Bus(transport, reply_timeout_s=reply_timeout_s, echo=echo, clock=clock)
        return cls(bus, calibration, limits, clock=clock, sleep=sleep)

    def read(self) -> ArmReading:
        """Read all servos in one transaction, about 2 ms on USB.

        Raises BusTimeout with the ids that stayed silent, at the latest after the reply timeout
        (twice that when a servo had been silent before). Fault bits are data here, not errors.
        """
        started_s = self._clock()
        replies = self.bus.sync_read(FEEDBACK_ADDRESS, FEEDBACK_BYTES, self._ids)
        now_s = self._clock()
        silent = tuple(servo_id for servo_id in self._ids if servo_id not in replies)
        if silent:
            waited_ms = (now_s - started_s) * 1000.0
            raise BusTimeout(self.bus.silence_message(silent, waited_ms, 1), silent)
        rows = [replies[servo_id] for servo_id in self._ids]
        return ArmReading(
            t_s=now_s,
            positions=self._joints(position_from_ticks, rows, registers.PRESENT_POSITION),
            velocities=self._joints(velocity_from_ticks, rows, registers.PRESENT_VELOCITY),
            loads=_column(rows, registers.PRESENT_LOAD) / 1000.0,
            currents_ma=_column(rows, registers.PRESENT_CURRENT) * MA_PER_RAW,
            voltages_v=_column(rows, registers.PRESENT_VOLTAGE) / 10.0,
            temperatures_c=_column(rows, registers.PRESENT_TEMPERATURE),
            status=np.array([reply.error for reply in rows], dtype=np.uint8),
        )

    def write_goals(self, positions: np.ndarray) -> None:
        """Send goals, (6,) degrees and gripper percent, to all servos in one frame.

        A goal beyond the calibrated range becomes the end of the range, as the servo itself would
        have it. Raises GoalError for anything but six finite numbers and NotArmed before `arm`,
        and then sends nothing.
        """
        goals = _checked_goals(positions)
        if not self.armed:
            raise NotArmed("a goal was sent to an arm without torque; call arm() first")
        self.bus.sync_write(
            registers.GOAL_POSITION,
            {
                motor.id: min(
                    motor.range_max,
                    max(motor.range_min, ticks_from_position(joint, motor, float(goal))),
                )
                for (joint, motor), goal in zip(self._motors, goals, strict=True)
            },
        )

    def arm(self) -> None:
        """Check every servo and bring torque up without moving; blocks about `ramp_s` + 0.3 s.

        Raises ServoFault, ArmMoved or a bus error; the arm is then limp. An arm that is armed
        already is left as it is.
        """
        if self.armed:
            return
        check_ready(self.bus, self._calibration, self._limits)
        try:
            bring_up_torque(self.bus, self._calibration, self._limits, self._sleep)
        except BaseException:
            self.soft_stop(ramp_s=0.0)
            raise
        self.armed = True

    def soft_stop(self, *, ramp_s: float = RAMP_S) -> SoftStopReport:
        """Let the arm sink and go limp, whatever works and whatever does not; never raises.

        Blocks for `ramp_s` when torque was on. The report names servos that did not confirm.
        """
        self.armed = False
        return soft_stop(self.bus, self._ids, ramp_s=ramp_s, sleep=self._sleep)

    def close(self) -> None:
        """Make the arm limp if it is armed and give the port back."""
        try:
            if self.armed:
                self.soft_stop()
        finally:
            self.bus.close()

    def _joints(
        self, convert: Callable[..., float], rows: list[Reply], register: Register
    ) -> np.ndarray:
        values = [
            convert(joint, motor, _field(reply, register))
            for (joint, motor), reply in zip(self._motors, rows, strict=True)
        ]
        return np.array(values, dtype=np.float64)


def _checked_goals(positions: object) -> np.ndarray:
    try:
        goals = np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GoalError(f"goals must be {len(JOINTS)} numbers; got {positions!r}") from error
    if goals.shape != (len(JOINTS),):
        raise GoalError(f"goals have shape {goals.shape}, must be ({len(JOINTS)},): {JOINTS}")
    for joint, goal in zip(JOINTS, goals, strict=True):
        if not np.isfinite(goal):
            raise GoalError(f"goal of {joint} is {goal}, must be finite; nothing was sent")
    return goals


def _field(reply: Reply, register: Register) -> int:
    start = register.address - FEEDBACK_ADDRESS
    return register.decode(reply.data[start : start + register.size])


def _column(rows: list[Reply], register: Register) -> np.ndarray:
    return np.array([_field(reply, register) for reply in rows], dtype=np.float64)
