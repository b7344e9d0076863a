"""One session at a time, and what is done before every start of the service."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Iterator

from deploy.device.errors import BusyError
from deploy.device.layout import Layout
from deploy.device.tidying import recover


@contextlib.contextmanager
def locked(layout: Layout, what: str) -> Iterator[None]:
    """Hold the device; BusyError says who has it. The kernel lets go when this process ends."""
    with open(str(layout.lock), "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "it does not say which"
            raise BusyError(
                f"another session has this device ({holder}); wait for it, then try again"
            ) from None
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
        with locked(layout, "guard"):
            return recover(layout)
    except BusyError:
        return None
