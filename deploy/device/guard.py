"""One session at a time, and what is done before every start of the service."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Iterator, TextIO

from deploy.device.errors import BusyError
from deploy.device.layout import Layout
from deploy.device.tidying import recover

GUARD_S = 2.0  # a service that starts holds the device for less


@contextlib.contextmanager
def locked(layout: Layout, what: str, wait_s: float = GUARD_S) -> Iterator[None]:
    """Hold the device; BusyError says who has it. The kernel lets go when this process ends."""
    with open(str(layout.lock), "a+") as file:
        if not _lock(file, wait_s):
            file.seek(0)
            holder = file.read().strip() or "it does not say which"
            raise BusyError(
                f"another session has this device ({holder}); wait for it, then try again"
            )
        file.truncate(0)
        since = time.strftime("%H:%M:%S UTC", time.gmtime())
        file.write(f"{what}, process {os.getpid()}, since {since}")
        file.flush()
        yield


def guard(layout: Layout) -> str | None:
    """Before the service starts: go back from a trial whose session died; returns what was undone.

    While a session lives the trial is its own affair.
    """
    try:
        with locked(layout, "guard", wait_s=0.0):
            return recover(layout)
    except BusyError:
        return None


def _lock(file: TextIO, wait_s: float) -> bool:
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(0.05)
        else:
            return True
