"""How far decoded depth is from the truth, in levels of the picture and in millimetres.

Millimetres need true depth: the picture is a stretch of 1/m, which is undone between the same
limits. What is farther than two metres is not counted, and depth that is decoded as farther counts
as two metres, because behind the desk there is nothing to be near to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.depth.relative import (
    Limits,
    depth_picture,
    inverse_depth,
    own_limits,
    relative_from_picture,
    resize_nearest,
)

FAR_M = 2.0


@dataclass(frozen=True, slots=True)
class DepthError:
    """Means over all pixels that count, of all pictures."""

    levels: float  # absolute, of 255
    mm: float | None  # absolute; None without true depth
    median_mm: float | None
    relative: float | None  # absolute error over true depth


@dataclass(frozen=True, slots=True)
class Truth:
    """What one decoded picture is judged by."""

    picture: np.ndarray  # (side_px, side_px) uint8, as the codec was given it
    depth_m: np.ndarray | None  # (side_px, side_px) float32
    limits_per_m: Limits | None  # 1/m that is black, and that is white


def truth_from_metres(depth_m: np.ndarray, side_px: int, limits: Limits | None = None) -> Truth:
    """Make the truth of (H, W) metres; `limits` are the codec's."""
    inverse = inverse_depth(depth_m)
    picture = depth_picture(inverse, side_px, limits)
    return Truth(picture, resize_nearest(depth_m, side_px), limits or own_limits(inverse))


def depth_error(decoded: np.ndarray, truths: list[Truth]) -> DepthError:
    """Judge (n, side_px, side_px) decoded pictures in 0..255 by their truths."""
    levels = [
        np.abs(picture - truth.picture).mean()
        for picture, truth in zip(decoded, truths, strict=True)
    ]
    if any(truth.depth_m is None for truth in truths):
        return DepthError(float(np.mean(levels)), None, None, None)
    errors_m, depths_m = [], []
    for picture, truth in zip(decoded, truths, strict=True):
        counts = (truth.depth_m > 0) & (truth.depth_m <= FAR_M)
        per_m = relative_from_picture(picture, truth.limits_per_m)[counts]
        depths_m.append(truth.depth_m[counts])
        errors_m.append(np.abs(1 / np.maximum(per_m, 1 / FAR_M) - depths_m[-1]))
    error_m, depth_m = np.concatenate(errors_m), np.concatenate(depths_m)
    return DepthError(
        levels=float(np.mean(levels)),
        mm=1e3 * float(error_m.mean()),
        median_mm=1e3 * float(np.median(error_m)),
        relative=float((error_m / depth_m).mean()),
    )
