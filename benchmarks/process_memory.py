"""Watch the memory of another process from outside: its own pages and those of files apart.

Linux keeps the counts in /proc/PID/status. It records a peak only for all pages together (VmHWM);
the peak of anonymous pages comes from looking often, and VmHWM tells how much that can have missed.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError

PROC = Path("/proc")
SAMPLE_S = 0.005
_FIELDS = ("RssAnon", "RssFile", "RssShmem", "VmSwap", "VmHWM")
_STATUS_BYTES = 1 << 14


class ProcessMemoryError(EdgeError):
    """The memory of a process cannot be read."""


@dataclass(frozen=True, slots=True)
class Pages:
    """What a process has in memory, in bytes."""

    anon: int  # its own: only the end of the process gives these back
    file: int  # of files it mapped: the system can drop and read them again
    shmem: int
    swap: int  # its own, but swapped out
    most: int  # VmHWM: the most it ever had of all three kinds together

    @property
    def resident(self) -> int:
        """All pages in memory."""
        return self.anon + self.file + self.shmem


def read_pages(pid: int | str = "self") -> Pages:
    """Read the counts of a process; raises `ProcessMemoryError` where the system has none."""
    path = PROC / str(pid) / "status"
    try:
        with path.open("rb") as file:
            return _pages(file.read())
    except (OSError, ValueError):
        raise ProcessMemoryError(
            f"{path} has no RssAnon; memory is measured on Linux (4.5 or newer) only"
        ) from None


def read_share_bytes(pid: int) -> int | None:
    """Return Pss, which counts a page shared by n processes as an n-th; None if not told."""
    try:
        with (PROC / str(pid) / "smaps_rollup").open("rb") as file:
            return _kib(file.read(), "Pss") * 1024
    except (OSError, ValueError):
        return None


class MemoryWatch:
    """Sample a process every `SAMPLE_S` in a thread until closed."""

    def __init__(self, pid: int) -> None:
        self._file = os.open(PROC / str(pid) / "status", os.O_RDONLY)
        self._lock = threading.Lock()
        self._anon = self._most_resident = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory watch", daemon=True)
        self._thread.start()

    def take_peak_anon(self) -> int:
        """Return the most anonymous bytes seen since the last time, and start anew."""
        with self._lock:
            peak, self._anon = self._anon, 0
        return peak

    @property
    def most_resident(self) -> int:
        """The most bytes of all kinds together that were seen."""
        return self._most_resident

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
        os.close(self._file)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                pages = _pages(os.pread(self._file, _STATUS_BYTES, 0))
            except (OSError, ValueError):  # it has ended
                return
            with self._lock:
                self._anon = max(self._anon, pages.anon)
                self._most_resident = max(self._most_resident, pages.resident)


def _pages(status: bytes) -> Pages:
    return Pages(*(_kib(status, name) * 1024 for name in _FIELDS))


def _kib(text: bytes, name: str) -> int:
    """Return the number after `name:`; ValueError without one."""
    start = text.index(b"\n" + name.encode() + b":") + len(name) + 2
    return int(text[start : text.index(b"kB", start)])
