"""Relative depth as the codec reads it: near is bright, far is dark, each picture over its range.

Depth-Anything gives relative *inverse* depth, a simulator or a depth camera gives metres. Metres
are inverted here, so that the same picture means the same whoever made it.
"""

from __future__ import annotations

import numpy as np

_NO_RANGE = 1e-8  # added to the range, as the release does it: a flat picture is all dark


def inverse_depth(depth_m: np.ndarray) -> np.ndarray:
    """Turn metres into 1/m, float32; what is 0 or infinitely far away becomes 0."""
    depth_m = np.asarray(depth_m, np.float32)
    known = depth_m > 0
    return np.divide(np.float32(1), depth_m, out=np.zeros_like(depth_m), where=known)


def depth_picture(relative: np.ndarray, side_px: int) -> np.ndarray:
    """Stretch (H, W) relative depth to 0..255 and resize it; (side_px, side_px) uint8.

    By least and greatest value of the picture, cut to whole levels, then to the nearest pixel
    (MolmoAct2 release).
    """
    relative = np.asarray(relative, np.float32)
    least, most = relative.min(), relative.max()
    levels = (relative - least) / (most - least + np.float32(_NO_RANGE)) * np.float32(255)
    return resize_nearest(levels.astype(np.uint8), side_px)


def inverse_depth_from_picture(picture: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Undo the stretch of `depth_picture` for the frame whose relative depth is `relative`.

    `picture` is (..., H, W) in 0..255, fractions allowed; the result is in units of `relative`.
    """
    least, most = float(np.min(relative)), float(np.max(relative))
    return least + np.asarray(picture, np.float32) / np.float32(255) * np.float32(most - least)


def resize_nearest(values: np.ndarray, side_px: int) -> np.ndarray:
    """Take the nearest pixels of (H, W); (side_px, side_px)."""
    rows, columns = (_nearest(size, side_px) for size in values.shape)
    return values[rows[:, None], columns]


def _nearest(size: int, side_px: int) -> np.ndarray:
    return np.arange(side_px) * size // side_px
