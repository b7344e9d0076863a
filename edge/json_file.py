"""Read a JSON file that somebody else wrote: bounded, regular, and without what is not JSON."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from edge.errors import BundleError, one_line


def read_json(path: Path, max_bytes: int) -> Any:
    """Decode `path`; `BundleError` when it is absent, no regular file, too large or not JSON."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or device would block, or never end
            raise BundleError(f"{path}: not a regular file; copy or build the bundle again")
        if status.st_size > max_bytes:
            raise BundleError(
                f"{path}: {status.st_size} bytes, at most {max_bytes} are read; build the bundle "
                "again"
            )
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise BundleError(f"{path}: missing; copy or build the bundle again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path}: unreadable ({one_line(error)}); build the bundle again"
        ) from None


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
