"""One session at a time, and what is done before every start of the service."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Iterator

from deploy.device.errors import BusyError
from deploy.device.layout import Layout
from deploy.device.service import Service
from deploy.device.tidying import recover

GUARD_S = 2.0  # a service that starts holds the device for less


@contextlib.contextmanager
def locked(layout: Layout, what: str, wait_s: float = GUARD_S) -> Iterator[None]:
    """Hold the device; BusyError says who has it. The kernel lets go when this process ends."""
    descriptor = open_lock(layout.lock)
    try:
        if not _lock(descriptor, wait_s):
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            raise BusyError(
                f"another session has this device ({holder or 'it does not say which'}); "
                "wait for it, then try again"
            )
        since = time.strftime("%H:%M:%S UTC", time.gmtime())
        holder = f"{what}, process {os.getpid()}, since {since}"
        with contextlib.suppress(OSError):  # on a full disk it stays without a name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode("utf-8"), 0)
        yield
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """Open a file to be locked, for its owner alone: who can read a file can lock it."""
    descriptor = os.open(str(path), os.O_RDWR | os.O_CREAT, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def guard(layout: Layout, service: Service) -> str | None:
    """Before the service starts: go back from a trial whose session died; returns what was undone.

    While a session lives the trial is its own affair.
    """
    try:
        with locked(layout, "guard", wait_s=0.0):
            return recover(layout, service, restart=False)
    except BusyError:
        return None


def _lock(descriptor: int, wait_s: float) -> bool:
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(0.05)
        else:
            return True
