"""The contents of all releases by digest: what is there is not sent again.

A content grows under `incoming/`, goes on where a cut connection left it, and comes under its
digest in `objects/` only when its digest was found right. Nothing there is ever changed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from deploy.device.durable import CHUNK_BYTES, sha256_of, sync_folder
from deploy.device.errors import DeviceError, RefusedError, is_full
from deploy.device.layout import Layout

OBJECT_MODE = 0o444


def missing_objects(layout: Layout, wanted: dict) -> list:
    """Return what is to be sent of `wanted` (digest: bytes), with the bytes already there."""
    missing = []
    for sha256, size in wanted.items():
        path = layout.objects / sha256
        if path.is_file() and path.stat().st_size == size:
            continue
        part = _part(layout, sha256)
        have = part.stat().st_size if part.exists() else 0
        if have > size:
            part.unlink()
            have = 0
        missing.append({"sha256": sha256, "size": size, "have": have})
    return missing


def receive_object(layout: Layout, sha256: str, size: int, offset: int, source: BinaryIO) -> None:
    """Take the rest of a content from `source`, beginning at `offset`, and check the whole.

    What came before a cut stays. With a full disk nothing stays: the robot needs the room.
    """
    part = _part(layout, sha256)
    have = part.stat().st_size if part.exists() else 0
    if offset != have or offset > size:
        raise DeviceError(f"object {sha256:.12}: {have} bytes are here, {offset} were meant")
    try:
        with part.open("ab") as file:
            _copy(source, file, size - offset)
            os.fsync(file.fileno())
        if sha256_of(part) != sha256:
            part.unlink()
            raise RefusedError(f"object {sha256:.12} arrived altered; push again")
        part.chmod(OBJECT_MODE)
        os.replace(str(part), str(layout.objects / sha256))
        sync_folder(layout.objects)
    except OSError as error:
        if is_full(error):
            part.unlink()
            raise DeviceError(
                f"no room for object {sha256:.12} ({size} bytes): {error.strerror}; free some "
                "with 'molmoact-flash prune'"
            ) from None
        raise


def place_object(layout: Layout, sha256: str, size: int, target: Path, mode: int) -> None:
    """Put a content at `target`, checked again; a hard link where its permissions allow."""
    path = layout.objects / sha256
    if not path.is_file() or path.stat().st_size != size or sha256_of(path) != sha256:
        if path.exists():
            path.unlink()
        raise DeviceError(f"object {sha256:.12} is damaged or missing; push again")
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode & 0o111:
        target.write_bytes(path.read_bytes())
        target.chmod(0o555)
    else:
        os.link(str(path), str(target))


def _part(layout: Layout, sha256: str) -> Path:
    return layout.incoming / (sha256 + ".part")


def _copy(source: BinaryIO, target: BinaryIO, n_bytes: int) -> None:
    left = n_bytes
    while left:
        chunk = source.read(min(left, CHUNK_BYTES))
        if not chunk:
            target.flush()
            raise DeviceError(f"the connection was cut with {left} bytes to come")
        target.write(chunk)
        left -= len(chunk)
