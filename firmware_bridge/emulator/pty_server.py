"""Serves an emulated bus on a pseudo-terminal, in real time.

Meant for a process of its own: drivers that poll the port would otherwise starve it. The slave side
is set raw and kept open, so that bytes are never echoed by the terminal and clients can come and
go. The rate that a client chose is read from the terminal: at a wrong one the servos stay silent.
While the bus is unplugged there is neither terminal nor link: whoever had it open is hung up on.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge.emulator.bus import EmulatedBus

TICK_S = 0.002
# After a longer stall of this process the lost time is left out rather than replayed.
MAX_CATCH_UP_S = 0.1
READ_BYTES = 4096
# Linux `struct termios2`: four flag words, line and control bytes, then the two rates.
_TCGETS2 = 0x802C542A
_TERMIOS2 = struct.Struct("4I20s2I")


class LinkError(Exception):
    """The path for the port cannot be used."""


def serve(
    bus: EmulatedBus,
    link: Path,
    stop: threading.Event,
    *,
    on_ready: Callable[[str], None] | None = None,
    on_tick: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Serve `bus` at the symbolic link `link` until `stop` is set; then remove the link.

    `on_ready` is called once with the terminal's path, `on_tick` after every round of physics.
    Blocks. Raises LinkError when something else is at `link`.
    """
    pace = _Pace(bus, on_tick, clock)
    while not stop.is_set():
        master, slave = os.openpty()
        try:
            tty.setraw(slave, termios.TCSANOW)
            os.set_blocking(master, False)
            terminal = os.ttyname(slave)
            with _linked(link, terminal):
                if on_ready is not None:
                    on_ready(terminal)
                    on_ready = None
                _serve_plugged(bus, master, stop, pace)
        finally:
            os.close(master)
            os.close(slave)
        while bus.unplugged and not stop.wait(TICK_S):
            pace.tick()


def client_baud_rate(master: int) -> int | None:
    """Return the rate that the client set on the terminal; None where it cannot be read."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        answer = fcntl.ioctl(master, _TCGETS2, bytes(_TERMIOS2.size))
    except OSError:
        return None
    return _TERMIOS2.unpack(answer)[-1]


@contextmanager
def _linked(link: Path, terminal: str) -> Iterator[None]:
    if link.is_symlink() and (not link.exists() or os.readlink(link) == terminal):
        link.unlink()
    try:
        link.symlink_to(terminal)
    except FileExistsError as error:
        raise LinkError(
            f"{link} already exists; remove it, or end the emulator that serves it"
        ) from error
    except OSError as error:
        raise LinkError(f"{link} cannot be made ({error.strerror}); choose another path") from error
    try:
        yield
    finally:
        if link.is_symlink() and os.readlink(link) == terminal:
            link.unlink()


class _Pace:
    """Moves the bus on by the time that has passed."""

    def __init__(
        self,
        bus: EmulatedBus,
        on_tick: Callable[[], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._on_tick = on_tick
        self._clock = clock
        self._last_s = clock()

    def tick(self) -> bytes:
        """Return the replies that have become due."""
        now_s = self._clock()
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        data = self._bus.advance(min(elapsed_s, MAX_CATCH_UP_S))
        if self._on_tick is not None:
            self._on_tick()
        return data


def _serve_plugged(bus: EmulatedBus, master: int, stop: threading.Event, pace: _Pace) -> None:
    unsent = b""
    while not stop.is_set() and not bus.unplugged:
        wait_s = TICK_S
        due_s = bus.next_due_s()
        if due_s is not None:
            wait_s = min(wait_s, max(0.0, due_s - bus.now_s))
        readable, _, _ = select.select([master], [], [], wait_s)
        data = _read(master) if readable else b""
        unsent += pace.tick()
        if data:
            unsent += bus.handle(data, client_baud_rate(master))
        unsent = _write(master, unsent)


def _read(master: int) -> bytes:
    try:
        return os.read(master, READ_BYTES)
    except BlockingIOError:
        return b""


def _write(master: int, data: bytes) -> bytes:
    """Write what fits and return the rest; a client that never reads loses it in the end."""
    if not data:
        return b""
    try:
        return data[os.write(master, data) :][-READ_BYTES:]
    except BlockingIOError:
        return data[-READ_BYTES:]
