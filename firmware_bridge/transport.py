"""Bytes to and from the servo bus: the interface, and a serial port that implements it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import termios
import time
from pathlib import Path
from typing import Protocol

import serial

from firmware_bridge.errors import PortError
from firmware_bridge.latency_timer import request_low_latency
from firmware_bridge.port_remedies import absence_remedy, permission_remedy
from firmware_bridge.usb_ports import by_id_path

DEFAULT_BAUD_RATE = 1_000_000
# A request is shorter than any driver's buffer: a port that does not take it is dead.
WRITE_TIMEOUT_S = 0.1
WATCHDOG_NAME = "arm-watchdog"  # as ps shows it; 15 characters at most
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

    def reopen(self) -> bool:
        """Try once, quickly, to open a port that was lost; return whether it is open."""
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


class DescriptorTransport:
    """The open descriptor of a serial port that is set up already; owns and closes it."""

    def __init__(self, descriptor: int, name: str, baud_rate: int = DEFAULT_BAUD_RATE) -> None:
        self.name = name
        self.baud_rate = baud_rate
        self._descriptor: int | None = descriptor
        os.set_blocking(descriptor, False)

    def fileno(self) -> int:
        """Return the descriptor. Raises PortError when the port is gone."""
        if self._descriptor is None:
            raise PortError(f"{self.name}: port lost; check the USB cable and power")
        return self._descriptor

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises PortError when the port is gone or takes nothing."""
        give_up_s = None
        while data:
            descriptor = self.fileno()
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                now_s = time.monotonic()
                give_up_s = give_up_s or now_s + WRITE_TIMEOUT_S
                if now_s >= give_up_s:
                    raise self._lost("it takes no more bytes") from None
                select.select([], [descriptor], [], give_up_s - now_s)
            except OSError as error:
                raise self._lost(error) from error

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return 1..max_bytes bytes as soon as some are there, none after `timeout_s`."""
        # Not pyserial's own read: changing its timeout sets up the terminal anew every time.
        descriptor = self.fileno()
        try:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, timeout_s))
            if not readable:
                return b""
            data = os.read(descriptor, max_bytes)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self._lost(error) from error
        if not data and _is_hung_up(descriptor):
            raise self._lost("it was closed at the other end")
        return data  # none: a watchdog, or the program it watches, was quicker

    def flush_input(self) -> None:
        """Drop bytes that have arrived and were not read."""
        try:
            termios.tcflush(self.fileno(), termios.TCIFLUSH)
        except (OSError, termios.error) as error:
            raise self._lost(error) from error

    def reopen(self) -> bool:
        """Return whether the port is open; a descriptor that was lost does not come back."""
        return self._descriptor is not None

    def close(self) -> None:
        """Give the descriptor back; never fails."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _lost(self, error: Exception | str) -> PortError:
        """Close what is dead, so that the system can give its name to the adapter once more."""
        self.close()
        reason = getattr(error, "args", (error,))[-1]
        return PortError(f"{self.name}: port lost ({reason}); check the USB cable and power")


def _is_hung_up(descriptor: int) -> bool:
    port = select.poll()
    port.register(descriptor, 0)  # a hang-up is told without being asked for
    return bool(port.poll(0))


class SerialTransport(DescriptorTransport):
    """A serial port, held exclusively. Raises PortError with one line when it cannot be opened."""

    def __init__(self, port: str, baud_rate: int = DEFAULT_BAUD_RATE) -> None:
        super().__init__(_open(port, baud_rate), port, baud_rate)
        self._way_back = WayBack(port)

    def reopen(self) -> bool:
        """Try once, quickly, to open a port that was lost; return whether it is open."""
        if self._descriptor is None:
            with contextlib.suppress(PortError):
                self._descriptor = self._way_back.open(self.baud_rate)
        return self._descriptor is not None

    def close(self) -> None:
        """Give the port back; never fails."""
        if self._descriptor is not None and not _is_pty(self._way_back.path):
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._descriptor, termios.TIOCNXCL)
        super().close()


class WayBack:
    """Where the adapter that a port names now will be found when it was lost and is back.

    By its name in /dev/serial/by-id where it has one, because two arms that were unplugged may have
    swapped the other names. A pseudo-terminal comes back only behind a link that was made anew: the
    number alone may by then be somebody else's terminal.
    """

    def __init__(self, port: str) -> None:
        self.path = by_id_path(port) or port
        self._link = _link_made(self.path)

    def open(self, baud_rate: int) -> int:
        """Open the port again and return its descriptor. Raises PortError when it is not back."""
        link = _link_made(self.path)
        if _is_pty(self.path) and (link is None or link == self._link):
            raise PortError(f"{self.path}: its other end is gone; start it again")
        descriptor = _open(self.path, baud_rate)
        self._link = link
        return descriptor


def holder(port: str) -> tuple[int, str] | None:
    """Return process id and name of another process that has `port` open, as far as visible.

    A watchdog is named only when the program that it watched is gone.
    """
    target = os.path.realpath(port)
    watchdog = None
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            process = int(link.parts[2])
            if process != os.getpid() and os.readlink(link) == target:
                name = Path("/proc", link.parts[2], "comm").read_text().strip()
                if name != WATCHDOG_NAME:
                    return process, name
                watchdog = process, name
    return watchdog


def _open(port: str, baud_rate: int) -> int:
    """Open and set up a port, and return its descriptor."""
    try:
        opened = serial.Serial(port, baud_rate, timeout=0, exclusive=True)
    except (OSError, ValueError) as error:
        raise PortError(_open_message(port, baud_rate, error)) from error
    with contextlib.closing(opened):
        # A pseudo-terminal is open at its other end too, and a mark on it would outlive a client
        # that is killed.
        if not _is_pty(port):
            # Whoever opened the port before and did not lock it is looked for; the mark keeps out
            # whoever comes later and does not ask for the lock.
            if holder(port) is not None:
                raise PortError(_taken_message(port))
            with contextlib.suppress(OSError):
                fcntl.ioctl(opened.fileno(), termios.TIOCEXCL)
        request_low_latency(opened)
        # A descriptor of our own: the lock goes with it.
        return os.dup(opened.fileno())


def _is_pty(port: str) -> bool:
    return os.path.realpath(port).startswith(_PTY_PREFIX)


def _link_made(path: str) -> tuple[int, int] | None:
    """Return what tells a symbolic link from one made anew; None for what is no link."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return status.st_ino, status.st_mtime_ns
    return None


def _open_message(port: str, baud_rate: int, error: Exception) -> str:
    # pyserial keeps the terminal's refusal only as the error behind its own.
    refusal = error.__context__
    number = refusal.args[0] if isinstance(refusal, termios.error) else None
    number = getattr(error, "errno", None) or number
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"{port}: no such port; {absence_remedy()}"
    if number == errno.EACCES:
        return f"{port}: permission denied; {permission_remedy(port)}"
    if number in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK):
        return _taken_message(port)
    if isinstance(error, ValueError):
        return f"{port}: {baud_rate} baud is not possible ({error}); the servos' default is 1000000"
    if number in (errno.ENOTTY, errno.EINVAL, errno.EISDIR):
        return f"{port}: is not a serial port at {baud_rate} baud; run 'molmoact-arm scan'"
    reason = " ".join(str(error).split())
    return f"{port}: cannot be opened ({reason}); run 'molmoact-arm scan' to see the ports"


def _taken_message(port: str) -> str:
    found = holder(port)
    if found is None:
        return f"{port}: taken by another process; end it, and try again"
    process, name = found
    if name == WATCHDOG_NAME:
        return (
            f"{port}: taken by the watchdog (process {process}) of a program that is gone, which "
            "is letting the arm down; try again in a few seconds"
        )
    return (
        f"{port}: taken by process {process} ({name}); end it with 'kill {process}', and try again"
    )
