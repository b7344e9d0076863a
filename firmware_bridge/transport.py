"""Bytes to and from the servo bus: the interface, and a serial port that implements it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import termios
from pathlib import Path
from typing import Protocol

import serial

from firmware_bridge.errors import PortError

DEFAULT_BAUD_RATE = 1_000_000
_PTY_PREFIX = "/dev/pts/"


class Transport(Protocol):
    """A half-duplex byte stream to the bus."""

    name: str
    baud_rate: int

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises PortError when the port is gone."""
        ...

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return 1..max_bytes bytes as soon as some are there, none after `timeout_s`."""
        ...

    def flush_input(self) -> None:
        """Drop bytes that have arrived and were not read."""
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


class SerialTransport:
    """A serial port, held exclusively. Raises PortError with one line when it cannot be opened."""

    def __init__(self, port: str, baud_rate: int = DEFAULT_BAUD_RATE) -> None:
        self.name = port
        self.baud_rate = baud_rate
        try:
            self._serial = serial.Serial(
                port, baud_rate, timeout=0, write_timeout=1.0, exclusive=True
            )
        except (OSError, ValueError) as error:
            raise PortError(_open_message(port, baud_rate, error)) from error
        self._is_pty = os.path.realpath(port).startswith(_PTY_PREFIX)
        # The lock above binds only those who ask for it; this keeps out everybody else. Not on a
        # pseudo-terminal, where the mark would outlive a client that is killed.
        if not self._is_pty:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._serial.fileno(), termios.TIOCEXCL)
        # Only FTDI-like drivers and Linux have it; the others answer with one of these.
        with contextlib.suppress(OSError, ValueError, NotImplementedError, AttributeError):
            self._serial.set_low_latency_mode(True)

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises PortError when the port is gone."""
        try:
            self._serial.write(data)
        except OSError as error:
            raise self._lost(error) from error

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return 1..max_bytes bytes as soon as some are there, none after `timeout_s`."""
        # Not pyserial's own read: changing its timeout sets up the terminal anew every time.
        try:
            descriptor = self._serial.fileno()
            readable, _, _ = select.select([descriptor], [], [], max(0.0, timeout_s))
            if not readable:
                return b""
            data = os.read(descriptor, max_bytes)
        except (OSError, ValueError) as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost("it was closed at the other end")
        return data

    def flush_input(self) -> None:
        """Drop bytes that have arrived and were not read."""
        try:
            self._serial.reset_input_buffer()
        except (OSError, termios.error) as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Give the port back; never fails."""
        with contextlib.suppress(OSError, termios.error):
            if not self._is_pty:
                fcntl.ioctl(self._serial.fileno(), termios.TIOCNXCL)
        with contextlib.suppress(OSError, termios.error):
            self._serial.close()

    def _lost(self, error: Exception | str) -> PortError:
        reason = " ".join(str(error).split())
        return PortError(f"{self.name}: port lost ({reason}); check the USB cable and power")


def _open_message(port: str, baud_rate: int, error: Exception) -> str:
    # pyserial keeps the terminal's refusal only as the error behind its own.
    refusal = error.__context__
    number = refusal.args[0] if isinstance(refusal, termios.error) else None
    number = getattr(error, "errno", None) or number
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"{port}: no such port; check the USB cable, or run 'molmoact-arm scan'"
    if number == errno.EACCES:
        return f"{port}: permission denied; run 'sudo usermod -aG dialout $USER' and log in again"
    if number in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK):
        return f"{port}: taken by {_holder(port)}, and try again"
    if isinstance(error, ValueError):
        return f"{port}: {baud_rate} baud is not possible ({error}); the servos' default is 1000000"
    if number in (errno.ENOTTY, errno.EINVAL, errno.EISDIR):
        return f"{port}: is not a serial port at {baud_rate} baud; run 'molmoact-arm scan'"
    reason = " ".join(str(error).split())
    return f"{port}: cannot be opened ({reason}); run 'molmoact-arm scan' to see the ports"


def _holder(port: str) -> str:
    """Name the process that has `port` open, as far as this user may see, and how to end it."""
    target = os.path.realpath(port)
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            process = link.parts[2]
            if int(process) != os.getpid() and os.readlink(link) == target:
                name = Path("/proc", process, "comm").read_text().strip()
                return f"process {process} ({name}); end it with 'kill {process}'"
    return "another process; end it"
