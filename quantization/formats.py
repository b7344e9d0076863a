"""How one matrix is stored: full precision, 8 bits a column, or 4 bits a block.

All formats take a matrix W of shape (outputs, inputs), float32, as checkpoints hold it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

_INT4_ZERO = 8  # MatMulNBits without zero points subtracts 8
_TINY = np.float32(1e-12)
_SCALE_SHARES = (1.0, 0.92, 0.84, 0.76, 0.68)  # of the scale that plain rounding takes
_SLICE_WEIGHTS = 1 << 21  # packed at a time by one core: 8 MiB of source


@dataclass(frozen=True, slots=True)
class Format:
    """A storage format: `bits` a weight; for 4 bits, `block` inputs share a scale."""

    bits: int
    block: int = 0

    @property
    def name(self) -> str:
        return {32: "fp32", 8: "int8", 4: f"int4-block{self.block}"}[self.bits]


FP32 = Format(32)
INT8 = Format(8)


@dataclass(frozen=True, slots=True)
class Packed:
    """Arrays as the kernels want them, and how far they are from the source.

    Errors are RMS(stored - source) / RMS(source); `rounding_error` is what plain rounding to the
    same format would have given.
    """

    weight: np.ndarray
    scale: np.ndarray | None
    relative_error: float
    rounding_error: float


def pack(matrix: np.ndarray, form: Format) -> Packed:
    """Convert a matrix, (outputs, inputs) float32, to its stored form.

    Outputs are independent, so rows are packed in slices on every core; what a slice needs bounds
    the memory beside source and result.
    """
    if form.bits == 32:
        return Packed(np.ascontiguousarray(matrix.T), None, 0.0, 0.0)
    rows = max(1, _SLICE_WEIGHTS // matrix.shape[1])
    slices = [matrix[first : first + rows] for first in range(0, len(matrix), rows)]
    pack_rows = _int8_rows if form.bits == 8 else partial(_int4_rows, block=form.block)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(pack_rows, slices))
    codes = np.concatenate([part.codes for part in parts])
    scale = np.concatenate([part.scale for part in parts]).reshape(-1)
    power = float(sum(np.sum(np.square(part, dtype=np.float64)) for part in slices))
    weight = np.ascontiguousarray(codes.T) if form.bits == 8 else codes
    errors = [
        float(np.sqrt(sum(squares) / power)) if power else 0.0
        for squares in zip(*(part.squared_errors for part in parts), strict=True)
    ]
    return Packed(weight, scale, *errors)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some packed outputs."""

    codes: np.ndarray
    scale: np.ndarray
    squared_errors: tuple[float, float]  # as stored, and as plain rounding would have stored


def _int8_rows(matrix: np.ndarray) -> _Rows:
    """Symmetric 8 bits, one scale an output: codes (outputs, inputs) int8, scale (outputs,)."""
    scale = np.maximum(np.abs(matrix).max(axis=1), _TINY) / np.float32(127)
    codes = np.rint(matrix / scale[:, None])
    error = float(_squared_error(codes * scale[:, None], matrix).sum())
    return _Rows(codes.astype(np.int8), scale, (error, error))


def _int4_rows(matrix: np.ndarray, block: int) -> _Rows:
    """Symmetric 4 bits, one scale a block of inputs, as MatMulNBits reads them.

    codes (outputs, blocks, block / 2) uint8, low nibble first; scale (outputs, blocks) float32.
    Plain rounding puts the largest magnitude of a block on -8, the longer side of the 4-bit range
    (the choice of llama.cpp's Q4_0). Smaller scales clip that one weight and store the others more
    finely: of several, each refitted by least squares to the codes it gave, the block keeps the one
    with the smallest error.
    """
    outputs, inputs = matrix.shape
    blocks = -(-inputs // block)
    grouped = np.zeros((outputs, blocks * block), np.float32)
    grouped[:, :inputs] = matrix
    grouped = grouped.reshape(outputs, blocks, block)
    largest = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)
    scale = np.where(np.abs(largest) < _TINY, _TINY, largest / np.float32(-_INT4_ZERO))
    best, codes = scale, _int4_codes(grouped, scale)
    rounded = least = _squared_error(codes * scale, grouped)  # padding is exact
    for share in _SCALE_SHARES:
        trial = _fitted_scale(grouped, _int4_codes(grouped, scale * share), scale)
        error = _squared_error(_int4_codes(grouped, trial) * trial, grouped)
        better = error < least
        best, least = np.where(better, trial, best), np.where(better, error, least)
    nibbles = (_int4_codes(grouped, best) + _INT4_ZERO).astype(np.uint8)
    packed = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    errors = float(least.sum()), float(rounded.sum())
    return _Rows(packed, best[..., 0].astype(np.float32), errors)


def _int4_codes(grouped: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(grouped / scale), -_INT4_ZERO, _INT4_ZERO - 1)


def _fitted_scale(grouped: np.ndarray, codes: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the scale that brings given codes closest to the source, block by block."""
    power = np.sum(codes * codes, axis=-1, keepdims=True)
    product = np.sum(codes * grouped, axis=-1, keepdims=True)
    fits = (power > 0) & (product != 0)
    return np.where(fits, product / np.maximum(power, 1), otherwise)


def _squared_error(stored: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Sum squared differences along the last axis, kept as an axis of one."""
    return np.sum(np.square(stored - source), axis=-1, keepdims=True)
