"""Which cells of an episode changed, and the codes that are carried where they did not.

The runtime compares the pictures of two calls of the policy, an interval apart; the annotation of
the MolmoAct2 release compares neighbouring frames. Both are the same here with another interval.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from edge.images import CHANGE_CELL_PX, cell_similarity, resize_antialiased
from training.depth.annotations import EpisodeCodes


def episode_similarity(
    pictures: Iterable[np.ndarray], intervals: Iterable[int], cells: int
) -> dict[int, np.ndarray]:
    """Compare every picture with the one `interval` before, cell by cell.

    `pictures` are (H, W, 3) uint8 RGB in order. Returns (frames, cells) float32 cosines for each
    interval, -1 (never similar) where the episode has no earlier picture.
    """
    intervals = tuple(intervals)
    side = round(cells**0.5) * CHANGE_CELL_PX
    # Resizing a picture once gives what the runtime gets by resizing both at each comparison.
    recent: deque[np.ndarray] = deque(maxlen=max(intervals))
    rows: dict[int, list[np.ndarray]] = {interval: [] for interval in intervals}
    for picture in pictures:
        small = resize_antialiased(picture, side)
        for interval in intervals:
            if len(recent) < interval:
                rows[interval].append(np.full(cells, -1, np.float32))
            else:
                rows[interval].append(cell_similarity(small, recent[-interval], cells))
        recent.append(small)
    return {interval: np.array(values, np.float32) for interval, values in rows.items()}


def carried_codes(fresh: np.ndarray, changed: np.ndarray, interval: int) -> EpisodeCodes:
    """Keep the codes of `interval` frames before where a cell did not change.

    `fresh` is (frames, cells) int, `changed` (frames, cells) bool. The first `interval` frames have
    nothing before them in the episode: all their cells count as changed. Frame f goes on from
    frame f - interval, so each of the `interval` possible first calls has a chain of its own.
    """
    changed = changed.copy()
    changed[:interval] = True
    buffer = fresh.astype(np.int16)
    for frame in range(interval, len(buffer)):
        buffer[frame] = np.where(changed[frame], buffer[frame], buffer[frame - interval])
    return EpisodeCodes(fresh.astype(np.int16), buffer, changed)
