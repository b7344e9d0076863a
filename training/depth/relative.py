"""Relative depth as the codec reads it: near is bright, far is dark, each picture over its range.

Depth-Anything gives relative *inverse* depth, a simulator or a depth camera gives metres. Metres
are inverted here, so that the same picture means the same whoever made it.
"""

from __future__ import annotations

import numpy as np

Limits = tuple[float, float]  # relative depth that is black, and that is white
_NO_RANGE = 1e-8  # added to the range, as the release does it: a flat picture is all dark


def inverse_depth(depth_m: np.ndarray) -> np.ndarray:
    """Turn metres into 1/m, float32; what is 0 or infinitely far away becomes 0."""
    depth_m = np.asarray(depth_m, np.float32)
    known = depth_m > 0
    return np.divide(np.float32(1), depth_m, out=np.zeros_like(depth_m), where=known)


def depth_picture(relative: np.ndarray, side_px: int, limits: Limits | None = None) -> np.ndarray:
    """Stretch (H, W) relative depth to 0..255 and resize it; (side_px, side_px) uint8.

    Between its own least and greatest value (MolmoAct2 release), or between `limits` for all
    frames alike; cut to whole levels, then to the nearest pixel.
    """
    relative = np.asarray(relative, np.float32)
    least, most = map(np.float32, limits or own_limits(relative))
    shares = np.clip((relative - least) / (most - least + np.float32(_NO_RANGE)), 0, 1)
    return resize_nearest((shares * np.float32(255)).astype(np.uint8), side_px)


def own_limits(relative: np.ndarray) -> Limits:
    """Return least and greatest value."""
    return float(np.min(relative)), float(np.max(relative))


def relative_from_picture(picture: np.ndarray, limits: Limits) -> np.ndarray:
    """Undo the stretch of `depth_picture`; (..., H, W) in 0..255, fractions allowed, to float32.

    Levels were cut, so what they stand for is on average half a level more.
    """
    least, most = limits
    shares = (np.asarray(picture, np.float32) + np.float32(0.5)) / np.float32(255)
    return least + shares * np.float32(most - least)


def resize_nearest(values: np.ndarray, side_px: int) -> np.ndarray:
    """Take the nearest pixels of (H, W); (side_px, side_px)."""
    rows, columns = (_nearest(size, side_px) for size in values.shape)
    return values[rows[:, None], columns]


def _nearest(size: int, side_px: int) -> np.ndarray:
    return np.arange(side_px) * size // side_px
