"""What the device's agent raises; each text is one line for the person who flashes."""

from __future__ import annotations


class DeviceError(Exception):
    """Something on the device went wrong; what ran before goes on running."""

    kind = "failed"


class RefusedError(DeviceError):
    """The device does not want this release, key or request."""

    kind = "refused"


class BusyError(DeviceError):
    """Another session holds the device."""

    kind = "busy"
