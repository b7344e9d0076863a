"""Where things lie below the device's root folder, and what was decided when it was provisioned."""

from __future__ import annotations

import json
import os
from pathlib import Path

from deploy.device.errors import DeviceError

DEFAULT_ROOT = "/opt/molmoact-edge"
SERVICE = "molmoact-edge.service"
SYSTEMD, SUPERVISOR = "systemd", "supervisor"


class Layout:
    """The folders of one device; only `provision` makes them."""

    def __init__(self, root: Path) -> None:
        """Take the root folder, whether it is there or not."""
        self.root = root
        self.agent = root / "agent.pyz"
        self.keys = root / "allowed_signers"
        self.config = root / "config.json"
        self.settings = root / "settings.json"
        self.state = root / "state.json"
        self.lock = root / "lock"
        self.current = root / "current"
        self.objects = root / "objects"
        self.incoming = root / "incoming"
        self.releases = root / "releases"
        self.run = root / "run"
        self.home = root / "home"

    @property
    def folders(self) -> tuple:
        """The folders that provisioning makes."""
        return (self.objects, self.incoming, self.releases, self.run, self.home)

    def release(self, release_id: str) -> Path:
        """Return the folder of an installed release."""
        return self.releases / release_id

    def current_id(self) -> str | None:
        """Return the release that the link names, None without one."""
        try:
            return os.path.basename(os.readlink(str(self.current)))
        except OSError:
            return None


class Config:
    """What provisioning decided: who runs the service, and with which Python releases work."""

    def __init__(self, service: str, user: str | None, python: str | None) -> None:
        """Take the kind of service, its user (None: whoever runs the agent) and an interpreter."""
        self.service = service
        self.user = user
        self.python = python

    def as_json(self) -> dict:
        """Return what `read_config` reads."""
        return {"service": self.service, "user": self.user, "python": self.python}


def read_config(layout: Layout) -> Config:
    """Read config.json; DeviceError where the device was never provisioned."""
    try:
        stated = json.loads(layout.config.read_text("utf-8"))
        return Config(stated["service"], stated["user"], stated["python"])
    except FileNotFoundError:
        raise DeviceError(
            f"{layout.root}: no device lives here; run 'molmoact-flash provision' first"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"{layout.config}: unreadable ({error}); provision again") from None
