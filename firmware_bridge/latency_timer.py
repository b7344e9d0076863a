"""The latency timer of FTDI adapters: how long they keep bytes back, 16 ms unless told otherwise.

Other adapters (CH343, CH9102, CH340) have none. With 16 ms every reply is late by up to that much,
and no control rate above 50 Hz is possible.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import serial

SYS_ROOT = Path("/sys")
LOW_LATENCY_MS = 1


def latency_timer_path(port: str, sys_root: Path = SYS_ROOT) -> Path | None:
    """Return the file that holds the latency timer of `port`; None where the adapter has none."""
    path = sys_root / "bus/usb-serial/devices" / Path(os.path.realpath(port)).name / "latency_timer"
    return path if path.is_file() else None


def latency_ms(port: str, sys_root: Path = SYS_ROOT) -> int | None:
    """Return the latency timer of `port` in milliseconds; None where there is none to be read."""
    path = latency_timer_path(port, sys_root)
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
    return None


def request_low_latency(opened: serial.Serial, sys_root: Path = SYS_ROOT) -> None:
    """Have the adapter hand bytes on at once, as far as it knows how and this user may."""
    # Only FTDI-like drivers and Linux have it; the others answer with one of these.
    with contextlib.suppress(OSError, ValueError, NotImplementedError, AttributeError):
        opened.set_low_latency_mode(True)
    path = latency_timer_path(opened.port, sys_root)
    if path is not None and latency_ms(opened.port, sys_root) != LOW_LATENCY_MS:
        with contextlib.suppress(OSError):
            path.write_text(str(LOW_LATENCY_MS))
