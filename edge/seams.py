"""How abruptly the goal changes where one chunk takes over from another."""

from __future__ import annotations

import numpy as np

WINDOW_S = 0.2  # after a seam; holding and blending are over by then


def seam_jumps(times_s: np.ndarray, asked: np.ndarray, chunk: np.ndarray) -> np.ndarray:
    """Return per seam the largest change of the goal's velocity from one tick to the next.

    `asked` (ticks, joints) are the goals at `times_s` (ticks,), NaN where there was none, `chunk`
    (ticks,) the number of the chunk that gave each, -1 for none. The result, (seams,) in units a
    second, is of the worst joint; seams beside a tick without goal do not count.
    """
    if len(times_s) < 3:
        return np.zeros(0)
    velocity = np.diff(asked, axis=0) / np.diff(times_s)[:, None]
    change = np.abs(np.diff(velocity, axis=0)).max(axis=1)  # at ticks 1 to n - 2
    times_s = times_s[1:-1]
    before, after = chunk[:-2], chunk[1:-1]
    jumps = []
    for seam in np.flatnonzero((before >= 0) & (after > before)):
        near = (times_s >= times_s[max(0, seam - 1)]) & (times_s <= times_s[seam] + WINDOW_S)
        jumps.append(change[near].max())
    worst = np.array(jumps)
    return worst[np.isfinite(worst)]
