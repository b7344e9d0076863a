"""Unpack wheels without pip: a wheel is a zip file whose RECORD has a digest of every member.

Nothing of a wheel is run while it is installed, no index is asked, and a device needs neither pip
nor ensurepip, which a fresh JetPack does not have. Format: PEP 427 and the `RECORD` of PEP 376.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import zipfile
from pathlib import Path, PurePosixPath

from deploy.device.durable import CHUNK_BYTES
from deploy.device.errors import DeviceError

_SYMLINK, _TYPE_BITS = 0o120000, 0o170000


def unpack_wheel(wheel: Path, name: str, site_packages: Path) -> None:
    """Unpack a wheel, called `name` in errors, each member checked against the wheel's RECORD."""
    try:
        with zipfile.ZipFile(str(wheel)) as archive:
            recorded = _recorded(archive, name)
            for member in archive.infolist():
                if not member.filename.endswith("/"):
                    _unpack(archive, member, name, recorded, site_packages)
    except (zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
        raise DeviceError(f"{name}: a damaged wheel ({error})") from None


def _recorded(archive: zipfile.ZipFile, name: str) -> dict:
    records = [
        member
        for member in archive.namelist()
        if member.count("/") == 1 and member.endswith(".dist-info/RECORD")
    ]
    if len(records) != 1:
        raise DeviceError(f"{name}: no wheel, it has {len(records)} RECORD files")
    rows = csv.reader(io.StringIO(archive.read(records[0]).decode("utf-8")))
    recorded = {row[0]: row[1] for row in rows if len(row) == 3}
    recorded[records[0]] = ""
    return recorded


def _unpack(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    name: str,
    recorded: dict,
    site_packages: Path,
) -> None:
    inside = PurePosixPath(member.filename)
    unix_mode = member.external_attr >> 16
    if inside.is_absolute() or ".." in inside.parts or "\\" in member.filename:
        raise DeviceError(f"{name}: member {member.filename!r} leads elsewhere")
    if unix_mode & _TYPE_BITS == _SYMLINK:
        raise DeviceError(f"{name}: member {member.filename!r} is a link")
    if member.filename not in recorded:
        if inside.name in ("RECORD.jws", "RECORD.p7s"):
            return
        raise DeviceError(f"{name}: {member.filename!r} is not in its RECORD")
    target = _target(inside, site_packages)
    if target is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    found = _write(archive, member, target)
    expected = recorded[member.filename]
    if inside.name != "RECORD" and expected != found:
        raise DeviceError(f"{name}: {member.filename!r} is not what its RECORD says")
    target.chmod(0o755 if unix_mode & 0o111 else 0o644)


def _target(inside: PurePosixPath, site_packages: Path) -> Path | None:
    """Return where a member goes; None for scripts and headers, which the robot never uses."""
    parts = inside.parts
    if not parts[0].endswith(".data"):
        return site_packages.joinpath(*parts)
    if len(parts) > 2 and parts[1] in ("purelib", "platlib"):
        return site_packages.joinpath(*parts[2:])
    return None


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    digest = hashlib.sha256()
    if os.path.lexists(str(target)):
        target.unlink()  # namespace files that two wheels share: the later one wins, as with pip
    with archive.open(member) as source, target.open("wb") as file:
        for chunk in iter(lambda: source.read(CHUNK_BYTES), b""):
            digest.update(chunk)
            file.write(chunk)
    text = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode("ascii")
    return "sha256=" + text
