"""Small files of a system, /sys, /proc and /etc, below a root that tests can choose.

Nothing here raises: a file that is absent, unreadable or not what was expected is None. Sensors
that are switched off answer with errors, and cores come and go.
"""

from __future__ import annotations

import os
import re
from io import FileIO
from pathlib import Path

MEMORY = "proc/meminfo"

_MOST_BYTES = 1 << 16
_AVAILABLE = re.compile(r"^MemAvailable:\s*(\d+) kB", re.MULTILINE)


class SystemFiles:
    """Reads below `root`; paths are relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, path: str) -> str | None:
        """Return a file without surrounding white space and NULs (device trees end in one)."""
        try:
            with (self.root / path).open("rb") as file:
                return _cleaned(file.read(_MOST_BYTES))
        except OSError:
            return None

    def number(self, path: str) -> float | None:
        """Return the number that a file holds."""
        return number_from_text(self.text(path))

    def matches(self, pattern: str) -> list[str]:
        """Return the paths that match a glob, `zone10` after `zone9`."""
        try:
            found = [str(path.relative_to(self.root)) for path in self.root.glob(pattern)]
        except OSError:
            return []
        return sorted(found, key=_natural)

    def exists(self, path: str) -> bool:
        """Tell whether there is anything at `path`."""
        return os.path.lexists(self.root / path)

    def link_target(self, path: str) -> str | None:
        """Return what a symbolic link says, without following it."""
        try:
            return os.readlink(self.root / path)
        except OSError:
            return None

    def kept(self, path: str) -> KeptFile:
        """Return a file that stays open between readings."""
        return KeptFile(self.root / path)


class KeptFile:
    """One file, opened once and read from its start each time.

    After a failure it is opened anew: files of a core that was switched off stay dead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def text(self) -> str | None:
        """Return what the file says now."""
        try:
            if self._file is None:
                self._file = FileIO(self._path)
            return _cleaned(os.pread(self._file.fileno(), _MOST_BYTES, 0))
        except OSError:
            self.close()
            return None

    def number(self) -> float | None:
        """Return the number that the file holds now."""
        return number_from_text(self.text())

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def number_from_text(text: str | None) -> float | None:
    """Return the decimal or 0x number that a text begins with."""
    word = (text or "").split(maxsplit=1)[:1]
    if not word:
        return None
    try:
        return float(int(word[0], 16)) if word[0].startswith("0x") else float(word[0])
    except ValueError:
        return None


def memory_available_mib(meminfo: str | None) -> float | None:
    """Return what programs can still take, from the text of `MEMORY`; None where it is not said."""
    found = _AVAILABLE.search(meminfo or "")
    return int(found[1]) / 1024 if found else None


def _cleaned(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip("\0 \t\r\n")


def _natural(path: str) -> list[tuple[int, str]]:
    """Order digits by their value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]
