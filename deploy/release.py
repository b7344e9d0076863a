"""A release as a folder on the workstation: contents by digest, and a signed list of them.

manifest.json  manifest.json.sig  objects/<sha256>
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.device.durable import sha256_of
from deploy.device.errors import DeviceError
from deploy.device.release_manifest import ReleaseManifest
from deploy.errors import FlashError
from deploy.signing import sign

MANIFEST, SIGNATURE, OBJECTS = "manifest.json", "manifest.json.sig", "objects"
_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Release:
    """A built and signed release."""

    folder: Path
    manifest: ReleaseManifest
    signature: bytes

    def object_path(self, sha256: str) -> Path:
        """Return the file that holds a content."""
        return self.folder / OBJECTS / sha256

    @property
    def total_bytes(self) -> int:
        """All contents together."""
        return sum(self.manifest.objects().values())


def write_release(
    folder: Path, stated: Mapping[str, Any], parts: Mapping[str, bytes | Path], key: Path
) -> Release:
    """Write and sign a release of `parts` (contents or files by their path in it).

    `stated` is the manifest but for its files. FlashError when `folder` exists or the key does not
    sign; then nothing is left behind.
    """
    if folder.exists():
        raise FlashError(f"{folder}: already exists; remove it or choose another path")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        (unfinished / OBJECTS).mkdir(parents=True)
        files = [_store(unfinished / OBJECTS, path, part) for path, part in parts.items()]
        text = (json.dumps({**stated, "files": files}, indent=1, sort_keys=True) + "\n").encode()
        manifest = _checked(text)
        signature = sign(text, key)
        (unfinished / MANIFEST).write_bytes(text)
        (unfinished / SIGNATURE).write_bytes(signature)
        unfinished.rename(folder)
    except OSError as error:
        raise FlashError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Release(folder, manifest, signature)


def open_release(folder: Path) -> Release:
    """Read a release that was built before."""
    try:
        text = (folder / MANIFEST).read_bytes()
        signature = (folder / SIGNATURE).read_bytes()
    except OSError as error:
        raise FlashError(f"{folder}: no release ({error.strerror}); build one first") from error
    return Release(folder, _checked(text), signature)


def _store(objects: Path, path: str, part: bytes | Path) -> dict[str, object]:
    if isinstance(part, bytes):
        sha256, size = hashlib.sha256(part).hexdigest(), len(part)
        (objects / sha256).write_bytes(part)
    else:
        sha256, size = sha256_of(part), part.stat().st_size
        if not (objects / sha256).exists():
            _link_or_copy(part.resolve(), objects / sha256)
    return {"path": path, "sha256": sha256, "size": size, "mode": _MODE}


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def _checked(text: bytes) -> ReleaseManifest:
    try:
        return ReleaseManifest(text)
    except DeviceError as error:
        raise FlashError(str(error)) from error
