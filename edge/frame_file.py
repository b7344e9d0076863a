"""Pass camera frames between processes: one memory-mapped file per camera, newest frame only.

A writer never waits for a reader. Frames alternate between two slots; each slot is guarded by a
sequence number that is odd while it is written (a seqlock) and by a CRC, which also holds on
processors that reorder stores. A reader therefore sees a whole frame or none.

    bytes 0..63     file header   magic, version, height, width, number of frames published
    then, twice     slot header   sequence, frame index, capture time, CRC-32   (64 bytes)
                    pixels        height x width x 3 uint8, RGB
"""

from __future__ import annotations

import math
import mmap
import os
import zlib
from pathlib import Path

import numpy as np

from edge.errors import EdgeError

MAGIC = b"MMAFRAME"
VERSION = 1
N_SLOTS = 2
BLOCK_BYTES = 64
READ_TRIES = 8
MAX_SIDE = 16384

FILE_HEADER = np.dtype(
    {
        "names": ["magic", "version", "height", "width", "published"],
        "formats": ["S8", "<u4", "<u4", "<u4", "<u8"],
        "offsets": [0, 8, 12, 16, 24],
        "itemsize": BLOCK_BYTES,
    }
)
SLOT_HEADER = np.dtype(
    {
        "names": ["sequence", "index", "t_s", "crc32"],
        "formats": ["<u8", "<u8", "<f8", "<u4"],
        "offsets": [0, 8, 16, 24],
        "itemsize": BLOCK_BYTES,
    }
)


class FrameFileError(EdgeError):
    """A frame file that is absent, of another layout, or given an image that does not fit."""


class FrameFile:
    """One camera's newest frame; use `create` in the process that renders, `open` in others."""

    def __init__(self, path: Path, mapping: mmap.mmap, height: int, width: int) -> None:
        self.path = path
        self.height = height
        self.width = width
        self._mapping = mapping
        image_bytes = height * width * 3
        self._header = np.frombuffer(mapping, FILE_HEADER, count=1)
        self._slots = []
        for slot in range(N_SLOTS):
            start = BLOCK_BYTES + slot * (BLOCK_BYTES + image_bytes)
            slot_header = np.frombuffer(mapping, SLOT_HEADER, count=1, offset=start)
            pixels = np.frombuffer(
                mapping, np.uint8, count=image_bytes, offset=start + BLOCK_BYTES
            ).reshape(height, width, 3)
            self._slots.append((slot_header, pixels))

    @classmethod
    def create(cls, path: str | Path, height: int, width: int) -> FrameFile:
        """Make the file for a writer; it appears under its name only when it is complete."""
        path = Path(path)
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            raise FrameFileError(
                f"{path}: image of {height}x{width} pixels; each side must be 1..{MAX_SIDE}"
            )
        header = np.zeros(1, FILE_HEADER)
        header["magic"], header["version"] = MAGIC, VERSION
        header["height"], header["width"] = height, width
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            file.write(header.tobytes())
            file.truncate(_file_bytes(height, width))
        partial.replace(path)
        return cls(path, _map(path, writable=True), height, width)

    @classmethod
    def open(cls, path: str | Path) -> FrameFile:
        """Open an existing file for reading; raises FrameFileError when it is not one."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                start = file.read(BLOCK_BYTES)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise FrameFileError(f"{path}: cannot open the frame file: {error.strerror}") from error
        header = np.frombuffer(start, FILE_HEADER)[0] if len(start) == BLOCK_BYTES else None
        if header is None or header["magic"] != MAGIC:
            raise FrameFileError(f"{path}: not a frame file")
        if header["version"] != VERSION:
            raise FrameFileError(
                f"{path}: frame file version {header['version']}, this program reads {VERSION}"
            )
        height, width = int(header["height"]), int(header["width"])
        if size != _file_bytes(height, width):
            raise FrameFileError(
                f"{path}: {size} bytes, {_file_bytes(height, width)} needed for {height}x{width}"
            )
        return cls(path, _map(path, writable=False), height, width)

    def publish(self, image: np.ndarray, t_s: float) -> int:
        """Write the next frame, (height, width, 3) uint8 RGB, and return its index from 0.

        `t_s` is the capture time on `time.monotonic`, which processes of one machine share.
        """
        if image.shape != (self.height, self.width, 3) or image.dtype != np.uint8:
            raise FrameFileError(
                f"{self.path}: image of shape {image.shape} {image.dtype}, "
                f"the file holds ({self.height}, {self.width}, 3) uint8"
            )
        index = int(self._header["published"][0])
        slot, pixels = self._slots[index % N_SLOTS]
        slot["sequence"][0] = 2 * index + 1
        pixels[:] = image
        slot["index"][0] = index
        slot["t_s"][0] = t_s
        slot["crc32"][0] = zlib.crc32(pixels)
        slot["sequence"][0] = 2 * index + 2
        self._header["published"][0] = index + 1
        return index

    def newest_index(self) -> int | None:
        """Return the index of the newest frame without copying it, None before the first."""
        published = int(self._header["published"][0])
        return published - 1 if published else None

    def newest_s(self) -> float:
        """Return when the newest frame was captured without copying it, nan before the first."""
        index = self.newest_index()
        return math.nan if index is None else float(self._slots[index % N_SLOTS][0]["t_s"][0])

    def latest(self) -> tuple[np.ndarray, float, int] | None:
        """Return (a copy of the newest whole frame, its capture time in s, its index), or None."""
        for _ in range(READ_TRIES):
            index = self.newest_index()
            if index is None:
                return None
            slot, pixels = self._slots[index % N_SLOTS]
            if int(slot["sequence"][0]) != 2 * index + 2:
                continue
            image = pixels.copy()
            t_s, crc32 = float(slot["t_s"][0]), int(slot["crc32"][0])
            if int(slot["sequence"][0]) == 2 * index + 2 and zlib.crc32(image) == crc32:
                return image, t_s, index
        return None

    def close(self) -> None:
        """Unmap the file; it stays on disk. Safe to call twice."""
        self._slots = []
        self._header = np.zeros(1, FILE_HEADER)
        self._mapping.close()


def _file_bytes(height: int, width: int) -> int:
    return BLOCK_BYTES + N_SLOTS * (BLOCK_BYTES + height * width * 3)


def _map(path: Path, *, writable: bool) -> mmap.mmap:
    with path.open("r+b" if writable else "rb") as file:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return mmap.mmap(file.fileno(), 0, access=access)
