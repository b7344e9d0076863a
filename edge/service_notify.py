"""Tell the service manager that the robot is ready and alive: sd_notify(3), in a few lines.

Whoever starts the service gives it the address of a datagram socket in `NOTIFY_SOCKET` and, in
`WATCHDOG_USEC`, how long it may be silent. The sign of life comes from the control loop: every
measurement of the servos that it takes. A loop that hangs is silent.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping

import numpy as np

from edge.box_file import BoxHandover
from edge.joints import JointReading
from edge.run import RobotArm

_SHARE_OF_WATCHDOG = 0.25  # of the time it may be silent, between two signs of life


class ServiceNotifier:
    """Speak to the service manager; without one every call does nothing."""

    def __init__(
        self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the address and the watchdog's time from the environment."""
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        microseconds = environment.get("WATCHDOG_USEC", "")
        silent_s = int(microseconds) / 1e6 if microseconds.isdecimal() else 40.0
        self.period_s = _SHARE_OF_WATCHDOG * silent_s
        self._clock = clock
        self._next_s = -1.0
        self._ready = False

    def ready(self, status: str) -> None:
        """Say once that the service is up, and what it does."""
        if not self._ready:
            self._ready = True
            self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Give a sign of life where one is due; takes microseconds, never blocks."""
        now_s = self._clock()
        if now_s >= self._next_s:
            self._next_s = now_s + self.period_s
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Say what is going on."""
        self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # the manager is gone, or its queue full
            self._socket.sendto(message.encode(), self._address)


class NotifyingArm:
    """An arm whose every measurement is a sign of life."""

    def __init__(self, arm: RobotArm, notifier: ServiceNotifier) -> None:
        """Take the arm that is driven, and whom to tell."""
        self._arm = arm
        self._notifier = notifier

    def read(self, deadline_s: float | None = None) -> JointReading:
        """Measure every joint."""
        reading = self._arm.read(deadline_s)
        self._notifier.alive()
        return reading

    def write(self, positions: np.ndarray) -> None:
        """Send one goal per joint."""
        self._arm.write(positions)

    def give_torque(self, box: BoxHandover | None = None) -> None:
        """Bring torque up; the service counts as started from then on."""
        self._arm.give_torque(box)
        self._notifier.ready("driving the arm")

    def soft_stop(self) -> None:
        """Let the arm down."""
        self._notifier.alive()
        self._arm.soft_stop()

    def close(self) -> None:
        """Give the port back."""
        self._arm.close()
