"""What stands between a user and a serial port, one line each with its remedy, for a pre-flight."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path

from firmware_bridge.latency_timer import (
    LOW_LATENCY_MS,
    SYS_ROOT,
    latency_ms,
    latency_timer_path,
)
from firmware_bridge.transport import holder
from firmware_bridge.usb_ports import BY_ID_FOLDER, by_id_path

PROC_ROOT = Path("/proc")
LATENCY_RULE = 'ACTION=="add", SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTR{latency_timer}="1"'
LATENCY_RULE_FILE = "/etc/udev/rules.d/99-servo-latency.rules"


def port_advice(
    port: str,
    *,
    sys_root: Path = SYS_ROOT,
    proc_root: Path = PROC_ROOT,
    by_id_folder: Path = BY_ID_FOLDER,
    may_open: Callable[[str, int], bool] = os.access,
) -> list[str]:
    """Return what is wrong with a port or will be, each with what to do; empty when all is well.

    Looks only; the port is not opened.
    """
    running = _running(proc_root)
    if not os.path.exists(port):
        return [_absence(port, "brltty" in running)]
    advice = []
    if not may_open(port, os.R_OK | os.W_OK):
        advice.append(f"{port}: permission denied; {permission_remedy(port)}")
    if (other := holder(port)) is not None:
        process, name = other
        advice.append(f"{port}: taken by process {process} ({name}); end it with 'kill {process}'")
    milliseconds = latency_ms(port, sys_root)
    if milliseconds is not None and milliseconds > LOW_LATENCY_MS:
        path = latency_timer_path(port, sys_root)
        advice.append(
            f"{port}: the adapter keeps replies back for {milliseconds} ms (latency timer); run "
            f"'echo {LOW_LATENCY_MS} | sudo tee {path}' now, and for good "
            f"\"echo '{LATENCY_RULE}' | sudo tee {LATENCY_RULE_FILE}\""
        )
    if "ModemManager" in running:
        advice.append(
            f"{port}: ModemManager is running and may open a port for seconds after it is plugged "
            "in; without a modem run 'sudo systemctl disable --now ModemManager'"
        )
    stable = by_id_path(port, by_id_folder)
    if stable is not None and os.path.realpath(port) == os.path.abspath(port):
        advice.append(f"{port}: may name another adapter after the next start; use {stable}")
    return advice


def permission_remedy(port: str) -> str:
    """Return what a user who may not open `port` is to do."""
    status = os.stat(port)
    user = pwd.getpwuid(os.getuid()).pw_name
    try:
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return f"give it to a group of yours: 'sudo chgrp dialout {port}'"
    if status.st_mode & 0o060 != 0o060 or status.st_gid == 0:
        return f"only root may use it; run 'sudo chgrp dialout {port}; sudo chmod 660 {port}'"
    if user in group.gr_mem and status.st_gid not in os.getgroups():
        return f"{user} is in group {group.gr_name} but logged in before; log out and in again"
    mine = ", ".join(sorted(_group_names(os.getgroups())))
    return (
        f"it belongs to group {group.gr_name}, {user} is in {mine}; run "
        f"'sudo usermod -aG {group.gr_name} {user}' and log in again"
    )


def _absence(port: str, brltty_is_running: bool) -> str:
    line = f"{port}: no such port; check the USB cable and run 'molmoact-arm scan'"
    if brltty_is_running:
        line += ", or 'sudo apt remove brltty', which takes CH340 adapters for braille displays"
    return line


def _running(proc_root: Path) -> set[str]:
    names = set()
    for path in proc_root.glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            names.add(path.read_text().strip())
    return names


def _group_names(group_ids: list[int]) -> list[str]:
    names = []
    for group_id in group_ids:
        with contextlib.suppress(KeyError):
            names.append(grp.getgrgid(group_id).gr_name)
    return names or ["no group"]
