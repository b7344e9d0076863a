"""What a user is to do about a serial port that is absent, forbidden, slow or meddled with."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path

PROC_ROOT = Path("/proc")
USUAL_GROUP = "dialout"
LATENCY_RULE = 'ACTION=="add", SUBSYSTEM=="usb-serial", DRIVER=="ftdi_sio", ATTR{latency_timer}="1"'
LATENCY_RULE_FILE = "/etc/udev/rules.d/99-servo-latency.rules"


def absence_remedy(proc_root: Path = PROC_ROOT) -> str:
    """Return what to do about a port that is not there."""
    remedy = "check the USB cable, or run 'molmoact-arm scan'"
    if "brltty" in _running(proc_root):
        # Ubuntu's brltty takes the CH340's USB id for that of a braille display.
        remedy += ", or 'sudo apt remove brltty', which takes CH340 adapters for its own"
    return remedy


def permission_remedy(port: str) -> str:
    """Return what to do about a port that this user may not open."""
    user = pwd.getpwuid(os.getuid()).pw_name
    try:
        mode, group = _owner(port)
    except (OSError, KeyError):
        return f"run 'sudo usermod -aG {USUAL_GROUP} {user}' and log in again"
    if mode & 0o060 != 0o060 or group.gr_gid == 0:
        return f"only root may use it; run 'sudo chgrp {USUAL_GROUP} {port}; sudo chmod 660 {port}'"
    if user in group.gr_mem and group.gr_gid not in os.getgroups():
        return f"{user} is in group {group.gr_name} but logged in before; log out and in again"
    mine = ", ".join(_group_names(os.getgroups()))
    return (
        f"it belongs to group {group.gr_name}, {user} is in {mine}; run "
        f"'sudo usermod -aG {group.gr_name} {user}' and log in again"
    )


def latency_remedy(timer: Path) -> str:
    """Return what to do about an FTDI adapter whose latency timer, a file in /sys, is too long."""
    return (
        f"run 'echo 1 | sudo tee {timer}' now, and to have it so from then on "
        f"\"echo '{LATENCY_RULE}' | sudo tee {LATENCY_RULE_FILE}\""
    )


def meddler_remedy(proc_root: Path = PROC_ROOT) -> str | None:
    """Return what to do about a program that opens ports it has no business with; None without."""
    if "ModemManager" not in _running(proc_root):
        return None
    return (
        "ModemManager runs and may hold a port for seconds after it is plugged in; without a modem "
        "run 'sudo systemctl disable --now ModemManager'"
    )


def _owner(port: str) -> tuple[int, grp.struct_group]:
    status = os.stat(port)
    return status.st_mode, grp.getgrgid(status.st_gid)


def _running(proc_root: Path) -> set[str]:
    names = set()
    for path in proc_root.glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            names.add(path.read_text().strip())
    return names


def _group_names(group_ids: list[int]) -> list[str]:
    names = set()
    for group_id in group_ids:
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(group_id).gr_name)
    return sorted(names) or ["no group"]
