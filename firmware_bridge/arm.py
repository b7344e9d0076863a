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
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from firmware_bridge import registers
from firmware_bridge.arming import ArmLimits, bring_up_torque, check_ready
from firmware_bridge.bus import DEFAULT_REPLY_TIMEOUT_S, Bus
from firmware_bridge.calibration import JOINTS, Calibration, ticks_from_position
from firmware_bridge.errors import BusTimeout, GoalError, NotArmed, PowerLost
from firmware_bridge.feedback import ArmReading, FeedbackDecoder
from firmware_bridge.power_watch import PowerWatch
from firmware_bridge.registers import FEEDBACK_ADDRESS, FEEDBACK_BYTES, Register
from firmware_bridge.soft_stop import PORT_WAIT_S, RAMP_S, SoftStopReport, soft_stop
from firmware_bridge.sync_read import SyncRead
from firmware_bridge.transport import DEFAULT_BAUD_RATE, SerialTransport


class Arm:
    """Six servos with a calibration and limits. Owned by one thread; torque only through `arm`.

    `armed` says that goals are taken, `torque_may_be_on` that a soft stop is due.
    """

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
        self.limits = limits
        self._calibration = calibration
        self._motors = [(joint, calibration[joint]) for joint in JOINTS]
        self._ids = [motor.id for _, motor in self._motors]
        self._decoder = FeedbackDecoder(calibration)
        self._power = PowerWatch(bus, self._ids, limits.acceleration_units)
        self.torque_may_be_on = False
        self._power_lost: str | None = None
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

    def read(self, deadline_s: float | None = None) -> ArmReading:
        """Read all servos in one transaction, about 2 ms on USB; fault bits are data, not errors.

        Lost replies are asked for again until `deadline_s` on the arm's clock (the reply timeout
        from now when left out), and no longer. Raises BusTimeout with the silent ids and what the
        others said, and PowerLost when a servo of an armed arm was without power.
        """
        return self.finish_read(self.start_read(deadline_s))

    def start_read(self, deadline_s: float | None = None) -> SyncRead:
        """Send the request of `read`, whose reading `finish_read` gives."""
        if deadline_s is None:
            deadline_s = self._clock() + self.bus.reply_timeout_s
        return self.bus.start_sync_read(
            FEEDBACK_ADDRESS, FEEDBACK_BYTES, self._ids, deadline_s=deadline_s
        )

    def finish_read(self, pending: SyncRead) -> ArmReading:
        """Wait for the replies to `start_read`; raises what `read` raises."""
        replies = self.bus.finish_sync_read(pending)
        now_s = self._clock()
        if self.armed:
            self._minding_power(self._power.after_reading, replies, now_s, pending.deadline_s)
        silent = tuple(servo_id for servo_id in self._ids if servo_id not in replies)
        if silent:
            partial = self._decoder.decode(replies, now_s) if replies else None
            message = self.bus.silence_message(silent, now_s - pending.started_s)
            raise BusTimeout(message, silent, partial)
        return self._decoder.decode(replies, now_s)

    def write_goals(self, positions: np.ndarray) -> None:
        """Send goals, (6,) degrees and gripper percent, to all servos in one frame.

        A goal beyond the calibrated range becomes the end of the range, as the servo itself would
        have it. A servo that was silent gets none until `read` has found that it kept its power: a
        goal would switch full torque on. Raises GoalError for anything but six finite numbers,
        NotArmed before `arm`, PowerLost after a find, BusTimeout when every servo was silent; then
        nothing is sent.
        """
        goals = checked_goals(positions)
        self._send(
            registers.GOAL_POSITION,
            {
                motor.id: min(
                    motor.range_max, max(motor.range_min, ticks_from_position(joint, motor, goal))
                )
                for (joint, motor), goal in zip(self._motors, goals.tolist(), strict=True)
            },
        )

    def read_torque_limits(self) -> np.ndarray:
        """Return the torque limits in the servos, (6,) int64, per mille of stall torque."""
        limit = registers.TORQUE_LIMIT
        return np.array([self.bus.read(servo_id, limit) for servo_id in self._ids], dtype=np.int64)

    def write_torque_limits(self, per_mille: np.ndarray) -> None:
        """Set the torque limits, (6,) per mille of stall torque, in one unacknowledged frame.

        Raises GoalError above the limits that the arm was opened with, else as `write_goals`.
        """
        wanted = [round(value) for value in checked_goals(per_mille).tolist()]
        allowed = self.limits.torque_limits_per_mille
        for joint, value, limit in zip(JOINTS, wanted, allowed, strict=True):
            if not 0 <= value <= limit:
                raise GoalError(
                    f"torque limit of {joint} is {value} per mille, this arm allows 0..{limit}; "
                    "nothing was sent"
                )
        self._send(registers.TORQUE_LIMIT, dict(zip(self._ids, wanted, strict=True)))

    def check_armed(self) -> None:
        """Raise NotArmed, or PowerLost after a find, unless goals may be sent."""
        if self._power_lost is not None:
            raise PowerLost(self._power_lost)
        if not self.armed:
            raise NotArmed("a goal was sent to an arm without torque; call arm() first")

    def check(self) -> None:
        """Raise ServoFault or a bus error unless every servo may be given torque; only reads."""
        check_ready(self.bus, self._calibration, self.limits)

    def arm(self) -> None:
        """Check every servo and bring torque up without moving; blocks about `ramp_s` + 0.3 s.

        Raises ServoFault, ArmMoved or a bus error; the arm is then limp. An arm that is armed
        already is left as it is.
        """
        if self.armed:
            return
        self.check()
        self.torque_may_be_on = True
        try:
            bring_up_torque(self.bus, self._calibration, self.limits, self._sleep)
            self._power.begin(self._clock())
        except BaseException:
            self.soft_stop(ramp_s=0.0)
            raise
        self._power_lost = None
        self.armed = True

    def soft_stop(
        self, *, ramp_s: float = RAMP_S, port_wait_s: float = PORT_WAIT_S
    ) -> SoftStopReport:
        """Let the arm sink and go limp, whatever works and whatever does not; never raises.

        Blocks for `ramp_s` when torque was on, and up to `port_wait_s` more while the port is lost.
        The report names servos that did not confirm.
        """
        self.armed = False
        self._power_lost = None
        report = soft_stop(
            self.bus, self._ids, ramp_s=ramp_s, port_wait_s=port_wait_s, sleep=self._sleep
        )
        self.torque_may_be_on = False
        return report

    def close(self) -> None:
        """Make the arm limp if it may have torque and give the port back."""
        try:
            if self.torque_may_be_on:
                self.soft_stop()
        finally:
            self.bus.close()

    def _send(self, register: Register, values: dict[int, int]) -> None:
        """Write one register of the servos that are known to have kept their power."""
        self.check_armed()
        self._minding_power(self._power.before_writing, self._clock())
        if doubted := self._power.doubted:
            values = {id_: value for id_, value in values.items() if id_ not in doubted}
        if not values:
            raise BusTimeout(
                f"no {register.name} was sent: every servo was silent, and none has shown since "
                "that it kept its power; read first",
                tuple(self._ids),
            )
        self.bus.sync_write(register, values)

    def _minding_power(self, look: Callable[..., None], *arguments: Any) -> None:
        """Look after the power; an arm that lost it is no longer armed and from then on says so."""
        try:
            look(*arguments)
        except PowerLost as error:
            self.armed = False
            self._power_lost = str(error)
            raise


def checked_goals(positions: object, joints: Sequence[str] = JOINTS) -> np.ndarray:
    """Return goals as (n_joints,) float64. Raises GoalError for anything but finite numbers."""
    try:
        goals = np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GoalError(f"goals must be {len(joints)} numbers; got {positions!r}") from error
    if goals.shape != (len(joints),):
        raise GoalError(
            f"goals have shape {goals.shape}, must be ({len(joints)},): {', '.join(joints)}"
        )
    finite = np.isfinite(goals)
    if not finite.all():
        first = int(np.argmin(finite))
        raise GoalError(
            f"goal of {joints[first]} is {goals[first]}, must be finite; nothing was sent"
        )
    return goals
