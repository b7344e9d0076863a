"""The wheel of this project that goes to robots: `firmware_bridge`, `edge` and `profiles` alone.

Written here rather than by a build tool: a robot gets no training code, the same sources give the
same bytes (so an update does not send them again), and it needs neither network nor a checkout.
Format: PEP 427.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import metadata, resources
from typing import TYPE_CHECKING

from deploy.agent_archive import zip_bytes

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

PACKAGES = ("firmware_bridge", "edge", "profiles")
_SUFFIXES = (".py", ".yaml", ".json")


def robot_wheel() -> tuple[str, bytes]:
    """Return (file name, content) of the wheel."""
    members: dict[str, bytes] = {}
    for package in PACKAGES:
        _add(resources.files(package), package, members)
    return pack_wheel("molmoact_edge", metadata.version("molmoact-edge"), members)


def pack_wheel(name: str, version: str, members: dict[str, bytes]) -> tuple[str, bytes]:
    """Return (file name, content) of a pure-Python wheel with these members."""
    info = f"{name}-{version}.dist-info"
    members = dict(members)
    members[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n".encode()
    )
    members[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: molmoact-flash\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(
        f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in members.items()
    )
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return f"{name}-{version}-py3-none-any.whl", zip_bytes(members)


def _add(folder: Traversable, path: str, members: dict[str, bytes]) -> None:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        inside = f"{path}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            _add(entry, inside, members)
        elif entry.name.endswith(_SUFFIXES):
            members[inside] = entry.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
