"""How one matrix is stored: full precision, 8 bits a column, or 4 bits a block.

All formats take a matrix W of shape (outputs, inputs), float32, as checkpoints hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_INT4_ZERO = 8  # MatMulNBits without zero points subtracts 8
_TINY = np.float32(1e-12)


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
    """Arrays as the kernels want them, and how far they are from the source."""

    weight: np.ndarray
    scale: np.ndarray | None
    relative_error: float


def pack(matrix: np.ndarray, form: Format) -> Packed:
    """Convert a matrix, (outputs, inputs) float32, to its stored form."""
    if form.bits == 32:
        return Packed(np.ascontiguousarray(matrix.T), None, 0.0)
    return _pack_int8(matrix) if form.bits == 8 else _pack_int4(matrix, form.block)


def _pack_int8(matrix: np.ndarray) -> Packed:
    """Symmetric 8 bits, one scale an output: weight (inputs, outputs) int8, scale (outputs,)."""
    scale = np.maximum(np.abs(matrix).max(axis=1), _TINY) / np.float32(127)
    codes = np.rint(matrix / scale[:, None])
    error = relative_rms(codes * scale[:, None] - matrix, matrix)
    return Packed(np.ascontiguousarray(codes.astype(np.int8).T), scale, error)


def _pack_int4(matrix: np.ndarray, block: int) -> Packed:
    """Symmetric 4 bits, one scale a block of inputs, as MatMulNBits reads them.

    weight (outputs, blocks, block / 2) uint8, low nibble first; scale (outputs * blocks,) float32.
    The scale's sign is chosen so that the largest magnitude of a block falls on -8, the longer side
    of the 4-bit range (the choice of llama.cpp's Q4_0).
    """
    outputs, inputs = matrix.shape
    blocks = -(-inputs // block)
    padded = np.zeros((outputs, blocks * block), np.float32)
    padded[:, :inputs] = matrix
    grouped = padded.reshape(outputs, blocks, block)
    largest = np.take_along_axis(grouped, np.abs(grouped).argmax(-1, keepdims=True), -1)
    scale = np.where(np.abs(largest) < _TINY, _TINY, largest / np.float32(-_INT4_ZERO))
    codes = np.clip(np.rint(grouped / scale), -8, 7)
    stored = (codes * scale).reshape(outputs, -1)[:, :inputs]
    error = relative_rms(stored - matrix, matrix)
    nibbles = (codes + _INT4_ZERO).astype(np.uint8)
    packed = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    return Packed(packed, scale.reshape(-1).astype(np.float32), error)


def relative_rms(difference: np.ndarray, reference: np.ndarray) -> float:
    """Return RMS(difference) / RMS(reference); 0 when the reference is all zero."""
    power = float(np.mean(np.square(reference, dtype=np.float64)))
    if power == 0:
        return 0.0
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64)) / power))
