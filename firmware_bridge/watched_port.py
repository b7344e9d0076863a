"""The serial port of a program that is watched: every request is a sign of life, and is fenced."""

from __future__ import annotations

import contextlib
import socket

from firmware_bridge.errors import PortError
from firmware_bridge.life_sign import LifeSign
from firmware_bridge.transport import SerialTransport
from firmware_bridge.watchdog_settings import PORT_LOST, PORT_OPENED


class WatchedPort:
    """A `Transport` over a port that a watchdog has inherited.

    Before anything is sent it looks whether the watchdog has taken the arm over, and then refuses
    for good: a program that hung and wakes up does not get a second frame out. `allowed_ns` is how
    long the program may now be silent.
    """

    def __init__(self, port: SerialTransport, page: LifeSign, control: socket.socket) -> None:
        self.name = port.name
        self.baud_rate = port.baud_rate
        self.allowed_ns = 0
        self._port = port
        self._page = page
        self._control = control
        self._told_lost = False

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises PortError when the port is gone or the watchdog's."""
        if self._page.taken_over:
            raise PortError(f"{self.name}: the watchdog has taken the arm over")
        self._page.show_life(self.allowed_ns)
        try:
            self._port.write(data)
        except PortError:
            self._tell_lost()
            raise

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return 1..max_bytes bytes as soon as some are there, none after `timeout_s`."""
        try:
            return self._port.read(max_bytes, timeout_s)
        except PortError:
            self._tell_lost()
            raise

    def flush_input(self) -> None:
        """Drop bytes that have arrived and were not read."""
        if self._page.taken_over:
            raise PortError(f"{self.name}: the watchdog has taken the arm over")
        self._page.show_life(self.allowed_ns)
        try:
            self._port.flush_input()
        except PortError:
            self._tell_lost()
            raise

    def reopen(self) -> bool:
        """Try once to open a port that was lost; return whether it is open."""
        self._page.show_life(self.allowed_ns)
        if self._page.taken_over or not self._port.reopen():
            return False
        if self._told_lost:
            self._told_lost = False
            with contextlib.suppress(OSError):
                socket.send_fds(self._control, [PORT_OPENED], [self._port.fileno()])
        return True

    def close(self) -> None:
        """Give the port back."""
        self._port.close()

    def _tell_lost(self) -> None:
        """Have the watchdog let go of it too: else the adapter comes back under another name."""
        if not self._told_lost:
            self._told_lost = True
            with contextlib.suppress(OSError):
                self._control.send(PORT_LOST)
