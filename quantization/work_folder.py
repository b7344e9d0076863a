"""A folder to work in, beside what it becomes: locked, hidden, cleaned up after being killed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantization.errors import BuildError


@contextmanager
def work_folder(target: Path, suffix: str) -> Iterator[Path]:
    """Give an empty folder `.NAME.suffix` beside `target`; it is gone afterwards unless renamed.

    Raises `BuildError` when another process has it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.parent / f".{target.name}.{suffix}"
    work.mkdir(exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"{target}: another build is writing it; wait for it") from None
        for leftover in work.iterdir():  # of a build that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            yield work
        finally:
            if _is(work, handle):  # not renamed
                shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(handle)


def _is(path: Path, handle: int) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(handle))
