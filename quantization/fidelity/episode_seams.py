"""How abruptly the goal changes where the chunks of an episode follow one another.

Each chunk is followed from its observation to the next one and takes over at once, without what
real-time chunking would hold and blend: what is seen is the chunks themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.seams import seam_jumps


def episode_seams(
    times_s: Sequence[float], chunks: Sequence[np.ndarray | None], action_hz: float
) -> np.ndarray:
    """Return per seam the largest change of a joint's goal velocity, (seams,) in units a second.

    `chunks` (n, joints) were predicted at `times_s`. There is no seam behind one that is missing,
    or that is over before the next begins.
    """
    joints = {chunk.shape[1] for chunk in chunks if chunk is not None}
    if not joints:
        return np.zeros(0)
    nothing = np.full((1, joints.pop()), np.nan)
    goals = [
        nothing if chunk is None or steps > len(chunk) else chunk[:steps].astype(np.float64)
        for chunk, steps in zip(chunks, _steps(times_s, chunks, action_hz), strict=True)
    ]
    asked = np.concatenate(goals)
    numbers = np.repeat(np.arange(len(goals)), [len(part) for part in goals])
    return seam_jumps(np.arange(len(asked)) / action_hz, asked, numbers)


def _steps(
    times_s: Sequence[float], chunks: Sequence[np.ndarray | None], action_hz: float
) -> list[int]:
    """Say for how many actions each chunk is followed: until the next, the last one to its end."""
    steps = [max(1, round(gap_s * action_hz)) for gap_s in np.diff(times_s)]
    return [*steps, 1 if chunks[-1] is None else len(chunks[-1])]
