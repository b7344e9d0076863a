"""What `molmoact-flash` raises: one line with what happened and what to do."""

from __future__ import annotations

from edge.errors import EdgeError


class FlashError(EdgeError):
    """A release that cannot be built, or a device that cannot be reached or said no."""


class DeviceRefusedError(FlashError):
    """The device said no; what ran there runs on."""


class DeviceBusyError(DeviceRefusedError):
    """Another session holds the device."""


class ConnectionLostError(FlashError):
    """The conversation with a device ended in the middle."""
