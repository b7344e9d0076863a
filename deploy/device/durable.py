"""Files and links that appear whole or not at all, also when the power goes."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

CHUNK_BYTES = 1 << 20


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put `content` in place of whatever `path` held; on disk when this returns."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(str(beside), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    os.replace(str(beside), str(path))
    sync_folder(path.parent)


def point_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` in one step."""
    beside = link.with_name(f".{link.name}.new")
    if os.path.lexists(str(beside)):
        beside.unlink()
    os.symlink(target, str(beside))
    os.replace(str(beside), str(link))
    sync_folder(link.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Take `folder` out of sight first, so that a half removed one is never met under its name."""
    doomed = folder
    if not folder.name.startswith("."):
        doomed = folder.with_name(f".gone-{folder.name}")
        if doomed.exists():
            shutil.rmtree(str(doomed))
        os.rename(str(folder), str(doomed))
        sync_folder(folder.parent)
    shutil.rmtree(str(doomed))


def sha256_of(path: Path) -> str:
    """Return the digest of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()
