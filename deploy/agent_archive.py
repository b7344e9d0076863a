"""The agent in one file that any Python from 3.8 runs: `deploy/device/` as a zip archive."""

from __future__ import annotations

import io
import zipfile
from importlib import resources

_MAIN = "import sys\n\nfrom deploy.device.command import main\n\nsys.exit(main())\n"
_OLDEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def agent_archive() -> bytes:
    """Return agent.pyz; the same sources give the same bytes."""
    folder = resources.files("deploy").joinpath("device")
    members = {"__main__.py": _MAIN, "deploy/__init__.py": ""}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            members[f"deploy/device/{entry.name}"] = entry.read_text("utf-8")
    return b"#!/usr/bin/env -S python3 -I\n" + zip_bytes(
        {name: text.encode() for name, text in members.items()}
    )


def zip_bytes(members: dict[str, bytes]) -> bytes:
    """Return a zip archive whose bytes depend on nothing but the members, in their order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name, _OLDEST_ZIP_DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o100644 << 16
            archive.writestr(member, content)
    return buffer.getvalue()
