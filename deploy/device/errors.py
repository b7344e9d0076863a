"""What the device's agent raises; each text is one line for the person who flashes."""

from __future__ import annotations

import errno
import getpass

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class DeviceError(Exception):
    """Something on the device went wrong; what ran before goes on running."""

    kind = "failed"


class RefusedError(DeviceError):
    """The device does not want this release, key or request."""

    kind = "refused"


class BusyError(DeviceError):
    """Another session holds the device."""

    kind = "busy"


def is_full(error: OSError) -> bool:
    """Tell whether there was no room on the disk."""
    return error.errno in _FULL


def os_error_text(error: OSError) -> str:
    """Say what the system refused, and what helps."""
    where = f" ({error.filename})" if error.filename else ""
    if is_full(error):
        return f"the device's disk is full{where}; free some with 'molmoact-flash prune'"
    if error.errno in _NOT_ALLOWED:
        return (
            f"the device's user {_user()} may not write{where}: {error.strerror}; "
            "provision again, or give that user the folder"
        )
    return str(error)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return "without a name"
