"""The black box on disk: where it lies, its space taken before torque, written out at the end.

A run writes into a hidden file beside the final one, which appears whole or not at all. Boxes
with a name of our own giving are kept up to a number; a file that was asked for by name is never
touched again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge.black_box import BlackBox, BlackBoxError
from edge.board_profile import BlackBoxProfile
from edge.box_layout import OUTSIDE_REASON_OFFSET, TEXT_BYTES
from edge.errors import one_line

NAME, SUFFIX = "molmoact-edge-", ".box"
# A hidden file this old that nobody has locked was left by a run whose machine lost power.
LEFT_BEHIND_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class BoxHandover:
    """How a process that outlives this one writes the box out, knowing nothing of its layout.

    It puts the reason, UTF-8 and padded with zeros, into `reason_bytes` at `reason_offset` of
    `descriptor`, copies the `n_bytes` of `descriptor` over `allocated`, syncs, links that to
    `path` (which fails where a file exists: nothing is overwritten) and removes `allocated`.
    """

    descriptor: int  # memory without a name, to be inherited
    n_bytes: int
    reason_offset: int
    reason_bytes: int
    allocated: str  # absolute; a file of n_bytes whose space is taken already
    path: str  # absolute


class BoxFile:
    """Space on disk for one box, from before the arm gets torque until the box is written."""

    def __init__(self, path: Path, n_bytes: int) -> None:
        """Take `n_bytes` beside `path`; BlackBoxError when it exists or the disk is full."""
        self.path = path.absolute()
        self._n_bytes = n_bytes
        self._allocated = self.path.with_name(f".{path.name}.{os.getpid()}.part")
        if self.path.exists():
            raise BlackBoxError(f"{path}: already exists; remove it or choose another path")
        self._descriptor = -1
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            self._descriptor = os.open(self._allocated, flags, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _take_space(self._descriptor, n_bytes)
        except OSError as error:
            self.abandon()
            raise BlackBoxError(_space_message(path, n_bytes, error)) from error

    def handover(self, box: BlackBox) -> BoxHandover | None:
        """Say how another process writes the box out; None when its memory cannot be shared."""
        if box.descriptor < 0:
            return None
        return BoxHandover(
            descriptor=box.descriptor,
            n_bytes=self._n_bytes,
            reason_offset=OUTSIDE_REASON_OFFSET,
            reason_bytes=TEXT_BYTES,
            allocated=str(self._allocated),
            path=str(self.path),
        )

    def write(self, box: BlackBox) -> None:
        """Write the box under its name; BlackBoxError when the disk does not take it."""
        try:
            view = box.whole()
            done = 0
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done : done + 2**24], done)
            os.fsync(self._descriptor)
            _publish(self._allocated, self.path)
        except OSError as error:
            raise BlackBoxError(
                f"{self.path}: cannot write the black box: {one_line(error)}"
            ) from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give the space back; safe to call twice, and after `write`."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._allocated)
            os.close(self._descriptor)
            self._descriptor = -1


def box_path(settings: BlackBoxProfile, now: datetime | None = None) -> Path:
    """Return a path for this run's box in the profile's folder, after the oldest boxes went.

    Makes the folder; raises BlackBoxError when that is not possible.
    """
    folder = settings.folder or _state_home() / "molmoact-edge"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old(folder, settings.keep - 1)
    except OSError as error:
        raise BlackBoxError(
            f"{folder}: no folder for the black box: {error.strerror}; name another as "
            "black_box.folder in the board profile, or give --black-box FILE"
        ) from error
    stamp = (now or datetime.now(timezone.utc)).strftime("%Y%m%dT%H%M%SZ")
    names = (f"{NAME}{stamp}{number}{SUFFIX}" for number in ("", *(f"-{n}" for n in range(2, 99))))
    return next(folder / name for name in names if not _is_taken(folder, name))


def _take_space(descriptor: int, n_bytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        block = bytes(2**20)  # a file system that takes space only for what is written
        for start in range(0, n_bytes, len(block)):
            os.pwrite(descriptor, block[: n_bytes - start], start)
        os.fsync(descriptor)


def _publish(allocated: Path, path: Path) -> None:
    try:
        os.link(allocated, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(allocated, path)  # a file system without links, such as a memory card's
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _space_message(path: Path, n_bytes: int, error: OSError) -> str:
    size = f"{n_bytes / 2**20:.0f} MiB"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{path}: no room for the black box of {size}: {error.strerror}; free some, lower "
            "black_box.seconds in the board profile, or give --black-box FILE on another disk"
        )
    return (
        f"{path}: cannot make the black box of {size}: {error.strerror}; "
        "choose another place with --black-box FILE"
    )


def _state_home() -> Path:
    given = os.environ.get("XDG_STATE_HOME", "")
    # The XDG directory rules: a path that is not absolute does not count.
    return Path(given) if os.path.isabs(given) else Path("~/.local/state").expanduser()


def _is_taken(folder: Path, name: str) -> bool:
    return (folder / name).exists() or any(folder.glob(f".{name}.*.part"))


def _remove_old(folder: Path, keep: int) -> None:
    boxes = sorted(folder.glob(f"{NAME}*{SUFFIX}"))
    for path in boxes[: max(0, len(boxes) - keep)]:
        path.unlink(missing_ok=True)
    for path in folder.glob(f".{NAME}*{SUFFIX}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_BEHIND_S and not _is_locked(path):
                path.unlink()


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
