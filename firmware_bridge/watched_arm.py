"""An arm with a watchdog: an `Arm`, and somebody who takes over when this process cannot.

```python
arm = open_watched_arm("/dev/ttyACM0", calibration, limits, times, program="my_loop")
arm.arm()                       # refused unless the watchdog runs
while True:
    arm.write_goals(...)        # silent for times.hold_s: the watchdog holds the arm
    arm.read()                  # raises StopAsked when somebody asks for a stop
arm.soft_stop()
arm.close()
```
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from firmware_bridge.arm import Arm
from firmware_bridge.arming import ArmLimits
from firmware_bridge.bus import DEFAULT_REPLY_TIMEOUT_S, Bus
from firmware_bridge.calibration import JOINTS, Calibration
from firmware_bridge.errors import BusError
from firmware_bridge.feedback import ArmReading
from firmware_bridge.soft_stop import RAMP_S, SoftStopReport
from firmware_bridge.sync_read import SyncRead
from firmware_bridge.transport import DEFAULT_BAUD_RATE, SerialTransport
from firmware_bridge.watchdog_handle import WatchdogHandle
from firmware_bridge.watchdog_settings import WatchdogTimes


class WatchedArm(Arm):
    """An `Arm` whose every request is a sign of life to its watchdog.

    Once the watchdog has taken over, nothing is sent any more: reading, writing and arming raise
    StopAsked, and `soft_stop` waits for the watchdog's.
    """

    def __init__(
        self,
        bus: Bus,
        calibration: Calibration,
        limits: ArmLimits,
        watchdog: WatchdogHandle,
        ramp_s: float,
    ) -> None:
        super().__init__(bus, calibration, limits)
        self.watchdog = watchdog
        self._ramp_s = ramp_s

    def start_read(self, deadline_s: float | None = None) -> SyncRead:
        """As `Arm.start_read`; raises StopAsked instead when the arm is to be let down."""
        self.watchdog.check()
        with self._unless_taken_over():
            return super().start_read(deadline_s)

    def finish_read(self, pending: SyncRead) -> ArmReading:
        """As `Arm.finish_read`."""
        with self._unless_taken_over():
            return super().finish_read(pending)

    def write_goals(self, positions: np.ndarray) -> None:
        """As `Arm.write_goals`; raises StopAsked when the watchdog has the arm."""
        with self._unless_taken_over():
            super().write_goals(positions)

    def write_torque_limits(self, per_mille: np.ndarray) -> None:
        """As `Arm.write_torque_limits`; raises StopAsked when the watchdog has the arm."""
        with self._unless_taken_over():
            super().write_torque_limits(per_mille)

    def arm(self) -> None:
        """As `Arm.arm`, under the watchdog's eyes.

        Raises StopAsked, or WatchdogError when nobody holds a dead man's switch that is wanted.
        """
        if self.armed:
            return
        self.watchdog.check()
        self.watchdog.torque_begins()
        try:
            with self._unless_taken_over():
                super().arm()
        except BaseException:
            self.soft_stop(ramp_s=0.0)  # a second time; now the watchdog knows how it went
            raise
        self.watchdog.torque_is_on()

    def soft_stop(
        self, *, ramp_s: float | None = None, port_wait_s: float | None = None
    ) -> SoftStopReport:
        """As `Arm.soft_stop`, or wait until the watchdog has let the arm down; never raises."""
        if not self.watchdog.has_arm:
            self.watchdog.softening_begins()
            report = super().soft_stop(
                ramp_s=self._ramp_s if ramp_s is None else ramp_s,
                port_wait_s=self.watchdog.times.replug_s if port_wait_s is None else port_wait_s,
            )
            if not self.watchdog.has_arm:
                self.watchdog.softened(report.unconfirmed_ids)
                return report
        self.armed = self.torque_may_be_on = False
        self.bus.close()
        unconfirmed, why = self.watchdog.leave_arm()
        limp = tuple(motor.id for _, motor in self._motors if motor.id not in unconfirmed)
        return SoftStopReport(limp, unconfirmed, (why,))

    def close(self) -> None:
        """Make the arm limp if it may have torque, end the watchdog, and give the port back."""
        try:
            if self.watchdog.has_arm:
                self.soft_stop()
            super().close()
        finally:
            self.watchdog.end()

    @contextlib.contextmanager
    def _unless_taken_over(self) -> Iterator[None]:
        try:
            yield
        except BusError:
            if self.watchdog.has_arm:
                self.watchdog.check()
            raise


def open_watched_arm(
    port: str,
    calibration: Calibration,
    limits: ArmLimits,
    times: WatchdogTimes,
    *,
    program: str,
    dead_man: bool = False,
    baud_rate: int = DEFAULT_BAUD_RATE,
    reply_timeout_s: float = DEFAULT_REPLY_TIMEOUT_S,
    echo: bool = False,
    ramp_s: float = RAMP_S,
) -> WatchedArm:
    """Open a port and start its watchdog; the arm may be read, but not moved before `arm`.

    `program` is the name in the watchdog's messages, `ramp_s` how long torque fades in a soft stop,
    the program's or the watchdog's. With `dead_man`, `arm` is refused unless somebody holds the
    switch, and letting it go is a request to stop. Raises PortError or WatchdogError.
    """
    transport = SerialTransport(port, baud_rate)
    try:
        watchdog = WatchdogHandle(
            transport,
            [calibration[joint].id for joint in JOINTS],
            times,
            program=program,
            dead_man=dead_man,
            reply_timeout_s=reply_timeout_s,
            echo=echo,
            ramp_s=ramp_s,
        )
    except BaseException:
        transport.close()
        raise
    bus = Bus(watchdog.port, reply_timeout_s=reply_timeout_s, echo=echo)
    return WatchedArm(bus, calibration, limits, watchdog, ramp_s)
