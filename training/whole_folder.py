"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import OutputExistsError, TrainingError


def refuse_taken(out: Path) -> None:
    """Raise OutputExistsError when `out` exists; ask before the work, not after it."""
    if out.exists() or out.is_symlink():
        raise OutputExistsError(out)


def make_parent(out: Path) -> None:
    """Make the folders above `out`; raise TrainingError when one of them is a file."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TrainingError(
            f"{out}: {out.parent} is inside a file or is one; choose another output path"
        ) from None


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside `out` to write into; it becomes `out` at the end.

    Parents are made. After an error nothing stays. Raises OutputExistsError when `out` exists.
    """
    refuse_taken(out)
    make_parent(out)
    hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield hidden
        hidden.chmod(0o755)  # mkdtemp makes it private
        os.rename(hidden, out)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
