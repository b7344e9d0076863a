"""Camera pictures to the patches that the vision tower reads, and which cells of a picture changed.

Exactness matters here: the checkpoint was trained on one way of resizing, and a depth cell is
predicted again or not by a threshold on pixels. Two different resamplers are therefore reproduced
bit for bit: torchvision's bilinear without antialiasing for the model input, and Pillow's bilinear
(which always antialiases) for the change mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CHANGE_CELL_PX = 32  # side of one depth cell in the change mask (MolmoAct2 release)
CHANGE_SIMILARITY = 0.996  # cosine below which a cell counts as changed (MolmoAct2 release)
_PILLOW_PRECISION_BITS = 22  # Pillow's 8-bit resampler: 32 - 8 - 2 bits of fixed-point weight


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """How one picture becomes patches: the checkpoint's `processor_config.json`, checked."""

    height: int
    width: int
    patch_size: int
    pooling_height: int
    pooling_width: int
    crop_mode: str  # "resize", or "overlap-and-resize" with up to `max_crops` detail crops
    max_crops: int
    overlap_left: int  # patches of context around each detail crop
    overlap_right: int

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per crop, (rows, columns)."""
        return self.height // self.patch_size, self.width // self.patch_size


@dataclass(frozen=True, slots=True)
class ImagePatches:
    """One picture, cut: what the vision tower reads and how its tokens pool the patches."""

    patches: np.ndarray  # (crops, patches per crop, patch_size * patch_size * 3) uint8
    pooling: np.ndarray  # (tokens, patches per token) int64 into crops * patches, -1 = none
    overview: tuple[int, int]  # tokens (rows, columns) of the whole picture
    detail: tuple[int, int]  # tokens (rows, columns) of all detail crops together, (0, 0) = none


def cut_image(image: np.ndarray, layout: ImageLayout) -> ImagePatches:
    """Resize and cut (height, width, 3) uint8 RGB as the checkpoint's processor does."""
    rows, columns = layout.grid
    whole = resize_bilinear(image, layout.height, layout.width)
    indices = np.arange(rows * columns).reshape(rows, columns)
    pooling = _pool(indices, layout)
    overview = pooling.shape[:2]
    tokens = pooling.reshape(-1, pooling.shape[-1])
    if layout.crop_mode == "resize":
        return ImagePatches(_patches(whole[None], layout), tokens, overview, (0, 0))
    crops, crop_indices = _overlapping_crops(image, layout)
    detail = _pool(crop_indices, layout)
    shifted = np.where(detail >= 0, detail + rows * columns, -1)  # the whole picture comes first
    tokens = np.concatenate([tokens, shifted.reshape(-1, shifted.shape[-1])])
    crops = np.concatenate([whole[None], crops])
    return ImagePatches(_patches(crops, layout), tokens, overview, detail.shape[:2])


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 RGB as torchvision does: half-pixel centres, no antialias, ties to even."""
    if image.shape[:2] == (height, width):
        return image
    upper, lower = _linear_taps(image.shape[1], width)
    mixed = _mix(np.take(image, lower[0], 1), lower[1], np.take(image, upper[0], 1), upper[1], 1)
    upper, lower = _linear_taps(image.shape[0], height)
    out = _mix(np.take(mixed, lower[0], 0), lower[1], np.take(mixed, upper[0], 0), upper[1], 0)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def resize_antialiased(image: np.ndarray, side: int) -> np.ndarray:
    """Resize uint8 RGB to (side, side) exactly as Pillow's 8-bit BILINEAR does."""
    if image.shape[:2] == (side, side):
        return image
    return _pillow_pass(_pillow_pass(image, side, axis=1), side, axis=0)


def changed_cells(current: np.ndarray, previous: np.ndarray, cells: int) -> np.ndarray:
    """Tell which depth cells differ between two uint8 RGB pictures; (cells,) bool, row by row.

    A cell changed when the cosine of its raw pixels falls below 0.996 (MolmoAct2 release); cells of
    (almost) zero norm count as equal. `cells` is a square number.
    """
    return np.asarray(cell_similarity(current, previous, cells) < CHANGE_SIMILARITY)


def cell_similarity(current: np.ndarray, previous: np.ndarray, cells: int) -> np.ndarray:
    """Return the cosine of the raw pixels of each depth cell; (cells,) float32, row by row."""
    side = round(cells**0.5)
    now, before = (_cell_vectors(image, side) for image in (current, previous))
    dot = np.sum(now * before, axis=-1)
    norm = np.linalg.norm(now, axis=-1) * np.linalg.norm(before, axis=-1)
    return np.where(norm < 1e-8, 1.0, dot / (norm + 1e-12)).reshape(-1)


def _cell_vectors(image: np.ndarray, side: int) -> np.ndarray:
    pixels = resize_antialiased(image, side * CHANGE_CELL_PX).astype(np.float32)
    cells = pixels.reshape(side, CHANGE_CELL_PX, side, CHANGE_CELL_PX, 3)
    return cells.transpose(0, 2, 1, 3, 4).reshape(side, side, -1)


@lru_cache(maxsize=32)
def _linear_taps(source: int, target: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Upper and lower (source index, float32 weight) of each target pixel.

    PyTorch computes centres and sums in float32 with fused multiply-add (measured: bit-identical);
    a fused step rounds once, which a float64 intermediate reproduces.
    """
    scale = np.float64(np.float32(source) / np.float32(target))
    centre = (scale * (np.arange(target) + 0.5) - 0.5).astype(np.float32)
    centre = np.maximum(centre, np.float32(0))
    low = np.minimum(centre.astype(np.int64), source - 1)
    weight = np.clip(centre - low.astype(np.float32), 0, 1).astype(np.float32)
    return (np.minimum(low + 1, source - 1), weight), (low, np.float32(1) - weight)


def _mix(
    low: np.ndarray, low_weight: np.ndarray, high: np.ndarray, high_weight: np.ndarray, axis: int
) -> np.ndarray:
    """Weigh two float32 (or uint8) pictures along `axis`: fused(low * weight, high * weight)."""
    shape = (1, -1, 1) if axis == 1 else (-1, 1, 1)
    rounded = high * high_weight.reshape(shape)
    fused = np.multiply(low, low_weight.reshape(shape), dtype=np.float64)
    fused += rounded
    return fused.astype(np.float32)


@lru_cache(maxsize=32)
def _pillow_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-point weights (target, taps) and source indices of Pillow's bilinear resampler."""
    scale = source / target
    support = max(scale, 1.0)  # the triangle filter widens when shrinking: that is the antialias
    starts, weights = [], []
    for index in range(target):
        centre = (index + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), source)
        taps = np.arange(first, last)
        weight = np.maximum(1.0 - np.abs((taps - centre + 0.5) / support), 0.0)
        starts.append(first)
        weights.append(weight / weight.sum())
    taps = max(len(weight) for weight in weights)
    table = np.zeros((target, taps))
    for row, weight in zip(table, weights, strict=True):
        row[: len(weight)] = weight
    fixed = np.floor(table * (1 << _PILLOW_PRECISION_BITS) + 0.5).astype(np.int32)
    indices = np.minimum(np.array(starts)[:, None] + np.arange(taps), source - 1)
    return fixed, indices


def _pillow_pass(image: np.ndarray, target: int, axis: int) -> np.ndarray:
    if image.shape[axis] == target:
        return image
    fixed, indices = _pillow_taps(image.shape[axis], target)
    shape = (1, target, 1) if axis == 1 else (target, 1, 1)
    total = np.int32(1 << (_PILLOW_PRECISION_BITS - 1))
    for tap in range(fixed.shape[1]):
        pixels = np.take(image, indices[:, tap], axis=axis).astype(np.int32)
        total = total + pixels * fixed[:, tap].reshape(shape)
    return np.clip(total >> _PILLOW_PRECISION_BITS, 0, 255).astype(np.uint8)


def _patches(crops: np.ndarray, layout: ImageLayout) -> np.ndarray:
    rows, columns = layout.grid
    size = layout.patch_size
    blocks = crops.reshape(len(crops), rows, size, columns, size, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(blocks.reshape(len(crops), rows * columns, size * size * 3))


def _pool(indices: np.ndarray, layout: ImageLayout) -> np.ndarray:
    """Group a grid of patch indices into (rows, columns, patches per token), padded with -1."""
    high, wide = layout.pooling_height, layout.pooling_width
    pad_y, pad_x = -indices.shape[0] % high, -indices.shape[1] % wide
    padding = [(pad_y // 2, (pad_y + 1) // 2), (pad_x // 2, (pad_x + 1) // 2)]
    grid = np.pad(indices, padding, constant_values=-1)
    rows, columns = grid.shape[0] // high, grid.shape[1] // wide
    tokens = grid.reshape(rows, high, columns, wide).transpose(0, 2, 1, 3)
    return tokens.reshape(rows, columns, high * wide).astype(np.int64)


def _overlapping_crops(image: np.ndarray, layout: ImageLayout) -> tuple[np.ndarray, np.ndarray]:
    """Cut detail crops that overlap by a margin, and say in which crop each patch is read.

    Returns crops (n, height, width, 3) uint8 and indices (patch rows, patch columns) of the resized
    picture into n * patches, taking each patch from the crop where it is not in a margin.
    """
    size, side = layout.patch_size, layout.height
    left, right = layout.overlap_left, layout.overlap_right
    margin = size * (left + right)
    per_crop = side // size
    window_px = (per_crop - left - right) * size
    height, width = image.shape[:2]
    down, across = _tiling(height - margin, width - margin, window_px, layout.max_crops)
    source = resize_bilinear(image, down * window_px + margin, across * window_px + margin)
    crops = np.empty((down * across, side, side, 3), np.uint8)
    owner = np.empty((source.shape[0] // size, source.shape[1] // size), np.int64)
    window = per_crop - left - right
    for y in range(down):
        for x in range(across):
            number = y * across + x
            top, start = y * window_px, x * window_px
            crops[number] = source[top : top + side, start : start + side]
            local = np.arange(per_crop * per_crop).reshape(per_crop, per_crop)
            # The outermost crops own their outer margin too, so that every patch has one owner.
            rows = slice(0 if y == 0 else left, per_crop if y == down - 1 else per_crop - right)
            columns = slice(
                0 if x == 0 else left, per_crop if x == across - 1 else per_crop - right
            )
            owned = local[rows, columns] + number * per_crop * per_crop
            top_patch, left_patch = y * window + rows.start, x * window + columns.start
            owner[
                top_patch : top_patch + owned.shape[0], left_patch : left_patch + owned.shape[1]
            ] = owned
    return crops, owner


def _tiling(height: int, width: int, window_px: int, max_crops: int) -> tuple[int, int]:
    """Choose (rows, columns) of crops: the least enlargement, else the least reduction."""
    tilings = [
        (rows, columns)
        for rows in range(1, max_crops + 1)
        for columns in range(1, max_crops + 1)
        if rows * columns <= max_crops
    ]
    tilings.sort(key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))
    candidates = np.array(tilings, np.float32) * np.float32(window_px)
    with np.errstate(divide="ignore"):
        scale = np.min(candidates / np.array([height, width], np.float32), axis=1)
    if np.all(scale < 1):
        return tilings[int(np.argmax(scale))]
    return tilings[int(np.argmin(np.where(scale < 1.0, 10e9, scale)))]
