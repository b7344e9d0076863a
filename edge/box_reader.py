"""Read a black box from a file that may be foreign, cut short, or damaged."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.black_box import BlackBoxError
from edge.box_layout import (
    CARD_BYTES,
    HEADER,
    MAGIC,
    PAGE_BYTES,
    SIZES_BYTES,
    VERSION,
    BoxLayout,
    BoxView,
    row_is_whole,
)

MOST_BYTES = 4 * 2**30
MOST_COUNTED = 2**48
MOST_JOINTS, MOST_CAMERAS, MOST_NAMES = 64, 16, 100


@dataclass(frozen=True, slots=True)
class RecordedBox:
    """A box read from a file: its card, and everything else in `view`."""

    path: Path
    card: dict[str, Any]
    view: BoxView


def read_box(path: Path) -> RecordedBox:
    """Read a box; BlackBoxError when it is absent, foreign, truncated or damaged."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise BlackBoxError(f"{path}: {size} bytes; a black box has at most {MOST_BYTES}")
            data = file.read(MOST_BYTES)
    except OSError as error:
        raise BlackBoxError(f"{path}: cannot be read: {error.strerror}") from error
    layout = _layout(path, data)
    view = BoxView(data, layout)
    card = _card(path, view)
    _check_rows(path, view)
    return RecordedBox(path, card, view)


def _layout(path: Path, data: bytes) -> BoxLayout:
    if len(data) < PAGE_BYTES or not data.startswith(MAGIC):
        raise BlackBoxError(f"{path}: not a black box of molmoact-edge")
    header = np.frombuffer(data, HEADER, 1)[0]
    if header["version"] != VERSION:
        raise BlackBoxError(
            f"{path}: black box version {header['version']}, this program reads {VERSION}"
        )
    if zlib.crc32(data[:SIZES_BYTES]) != header["sizes_crc32"]:
        raise _damaged(path, "its header has another checksum")
    sizes = ("n_joints", "n_cameras", "n_outcomes", "n_rules", "capacity")
    layout = BoxLayout(*(int(header[name]) for name in sizes))
    possible = (
        0 < layout.n_joints <= MOST_JOINTS
        and layout.n_cameras <= MOST_CAMERAS
        and 0 < layout.n_outcomes <= MOST_NAMES
        and 0 < layout.n_rules <= MOST_NAMES
        and 0 < layout.capacity <= MOST_BYTES
        and header["row_bytes"] == layout.row.itemsize
        and header["total_bytes"] == layout.total_bytes
    )
    if not possible:
        raise _damaged(path, "its header holds impossible sizes")
    if max(header["n_ticks"], header["n_events"]) > MOST_COUNTED:
        raise _damaged(path, "its header holds impossible counts")
    if len(data) != layout.total_bytes:
        raise _damaged(path, f"it has {len(data)} bytes, its header says {layout.total_bytes}")
    return layout


def _card(path: Path, view: BoxView) -> dict[str, Any]:
    n_bytes = int(view.header["card_bytes"][0])
    data = view.card_area[: min(n_bytes, CARD_BYTES)].tobytes()
    if not 0 < n_bytes <= CARD_BYTES or zlib.crc32(data) != view.header["card_crc32"][0]:
        raise _damaged(path, "its card has another checksum")
    try:
        card = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its card is not JSON") from error
    wanted = {
        "joints": view.layout.n_joints,
        "cameras": view.layout.n_cameras,
        "outcomes": view.layout.n_outcomes,
        "rules": view.layout.n_rules,
    }
    for name, count in wanted.items():
        names = card.get(name) if isinstance(card, dict) else None
        if not isinstance(names, list) or len(names) != count:
            raise _damaged(path, f"its card does not list {count} {name}")
        if not all(isinstance(entry, str) for entry in names):
            raise _damaged(path, f"its card's {name} are no names")
    return card


def _check_rows(path: Path, view: BoxView) -> None:
    rows, layout, n_ticks = view.rows(), view.layout, view.n_ticks
    first = n_ticks - len(rows) + 1
    for index in range(len(rows)):
        row = rows[index : index + 1]
        if int(row["number"][0]) != first + index or not row_is_whole(row):
            raise _damaged(path, f"tick {first + index} has another checksum or number")
    for name, count, lowest in (
        ("outcome", layout.n_outcomes, -1),
        ("rule", layout.n_rules, -1),
        ("joint", layout.n_joints, -1),
    ):
        if len(rows) and not ((rows[name] >= lowest) & (rows[name] < count)).all():
            raise _damaged(path, f"a tick's {name} is outside {lowest}..{count - 1}")


def _damaged(path: Path, what: str) -> BlackBoxError:
    return BlackBoxError(f"{path}: the black box is damaged or cut short: {what}")
