"""What can be wrong with a serial port before a byte is sent, or when it does not open."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from firmware_bridge.findings import Finding, fail, ok, warn
from firmware_bridge.latency_timer import LOW_LATENCY_MS, SYS_ROOT, latency_ms, latency_timer_path
from firmware_bridge.port_remedies import (
    absence_remedy,
    latency_remedy,
    meddler_remedy,
    permission_remedy,
)
from firmware_bridge.transport import holder
from firmware_bridge.usb_ports import BY_ID_FOLDER, by_id_path


def check_port(port: str, by_id_folder: Path = BY_ID_FOLDER) -> Finding:
    """Say whether the port is there, open to this user, and free."""
    where = f"port {port}"
    try:
        mode = os.stat(port).st_mode
    except OSError as error:
        reason = error.strerror.lower()
        return fail(where, reason, absence_remedy())
    if not stat.S_ISCHR(mode):
        return fail(where, "is not a serial port", "run 'molmoact-arm scan'")
    if not os.access(port, os.R_OK | os.W_OK):
        return fail(where, "permission denied", permission_remedy(port))
    found = holder(port)
    if found is not None and not os.path.realpath(port).startswith("/dev/pts/"):
        process, name = found
        return fail(
            where,
            f"held by process {process} ({name})",
            f"if it drives the arm, 'molmoact-arm stop --port {port}'; else 'kill {process}'",
        )
    if (remedy := meddler_remedy()) is not None:
        return warn(where, "there, and open to this user", remedy)
    lasting = by_id_path(port, by_id_folder)
    hint = f"; {lasting} is the name that stays when ports swap" if lasting else ""
    return ok(where, f"there, and open to this user{hint}")


def check_latency(port: str, sys_root: Path = SYS_ROOT) -> Finding | None:
    """Say whether an FTDI adapter keeps bytes back; None for adapters that do not.

    To be asked while the port is open, because opening it sets the timer where that is allowed.
    """
    waits_ms = latency_ms(port, sys_root)
    if waits_ms is None:
        return None
    where = f"port {port}"
    if waits_ms <= LOW_LATENCY_MS:
        return ok(where, f"latency timer {waits_ms} ms")
    path = latency_timer_path(port, sys_root)
    return warn(
        where,
        f"latency timer {waits_ms} ms, every reply is that late",
        latency_remedy(path),
    )
