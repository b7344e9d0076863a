"""Find Python interpreters on the device and run programs there as the service's user."""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
import signal
import subprocess
import sys
from typing import Callable

from deploy.device.errors import DeviceError
from deploy.device.layout import Config

SUPPORTED = ("3.10", "3.11", "3.12", "3.13")  # what the robot runtime works on
_FOLDERS = ("/usr/bin", "/usr/local/bin")
_ASK = "import sys, platform; print('%d.%d' % sys.version_info[:2], platform.machine())"
_PR_SET_PDEATHSIG = 1


def interpreters(config: Config) -> dict:
    """Return the interpreters that releases can use, {"3.10": "/usr/bin/python3.10"}."""
    candidates = [config.python] if config.python else []
    candidates += [f"{folder}/python{v}" for v in SUPPORTED for folder in _FOLDERS]
    candidates += [f"{folder}/python3" for folder in _FOLDERS] + [sys.executable]
    found = {}
    for path in candidates:
        version = _version(path)
        if version in SUPPORTED:
            found.setdefault(version, path)
    return found


def interpreter(config: Config, version: str) -> str:
    """Return the path of Python `version`; DeviceError when the device has none."""
    found = interpreters(config)
    if version not in found:
        raise DeviceError(
            "Python {} is not here (found: {}); install it, or provision with --python PATH".format(
                version, ", ".join(found) or "none of {}".format(", ".join(SUPPORTED))
            )
        )
    return found[version]


def user_ids(user: str | None) -> tuple | None:
    """Return (uid, gid, groups) to change to; None: stay who we are."""
    if user is None or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise DeviceError(f"user {user} does not exist; provision again") from None
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(user, entry.pw_gid)


def become(ids: tuple | None) -> Callable[[], None]:
    """Return what a child does before its program: end with its parent, and change user."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        if ids is not None:
            os.setgroups(ids[2])
            os.setgid(ids[1])
            os.setuid(ids[0])
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after setuid, which clears it

    return prepare


def _version(path: str) -> str | None:
    if not os.access(path, os.X_OK):
        return None
    try:
        done = subprocess.run(
            [path, "-I", "-c", _ASK], stdout=subprocess.PIPE, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.decode("ascii", "replace").split()
    return words[0] if done.returncode == 0 and words[1:] == [platform.machine()] else None
