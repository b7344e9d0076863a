"""How one matrix is stored: full precision, 8 bits an output, or 4 or 8 bits a block of inputs.

All formats take a matrix W of shape (outputs, inputs), float32, as checkpoints hold it.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from quantization.errors import BuildError

_TINY = np.float32(1e-12)
_INT8_CODES = np.float32(-127), np.float32(127)
_SCALE_SHARES = (1.0, 0.92, 0.84, 0.76, 0.68)  # of the scale that plain rounding takes
_SLICE_WEIGHTS = 1 << 21  # packed at a time by one core: 8 MiB of source
_NAME = re.compile(r"(fp32|int8|int8-static|(int[48])-block(16|32|64|128|256)(-asymmetric)?)")


@dataclass(frozen=True, slots=True)
class Format:
    """A storage format.

    32 bits: as it is. 8 bits without a block: one scale an output, and activations in 8 bits with
    one scale a row (W8A8), the fastest where arithmetic is the limit; `static` with one scale that
    a calibration found. 4 or 8 bits with a block:
    `block` inputs share a scale (and a zero point unless `symmetric`), the smallest and, where
    reading weights is the limit, the fastest.
    """

    bits: int
    block: int = 0
    symmetric: bool = True
    static: bool = False

    @property
    def name(self) -> str:
        """The name recipes and manifests use, which `parse_format` reads."""
        if self.bits == 32:
            return "fp32"
        if self.static:
            return "int8-static"
        block = f"-block{self.block}" if self.block else ""
        return f"int{self.bits}{block}{'' if self.symmetric else '-asymmetric'}"


FP32 = Format(32)
INT8 = Format(8)
INT8_STATIC = Format(8, static=True)


def parse_format(name: str) -> Format:
    """Return the format called `name`; `BuildError` that lists what there is."""
    found = _NAME.fullmatch(name)
    if not found:
        raise BuildError(
            f"format {name!r} is unknown; choose fp32, int8, int8-static, or int4-blockN or "
            "int8-blockN with N of 16, 32, 64, 128 or 256, if wanted with -asymmetric"
        )
    whole, blocked, block, asymmetric = found.groups()
    if blocked:
        return Format(int(blocked[3:]), int(block), not asymmetric)
    return {form.name: form for form in (FP32, INT8, INT8_STATIC)}[whole]


@dataclass(frozen=True, slots=True)
class Packed:
    """Arrays as the kernels want them, and how far they are from the source.

    Errors are RMS(stored - source) / RMS(source), inputs weighted by the power expected of them,
    or, where inputs were recorded, RMS of the product's error over that of the product;
    `rounding_error` is what plain rounding to the same format would have given.
    """

    weight: np.ndarray
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    relative_error: float
    rounding_error: float

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.weight, self.scale, self.zero_point)
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Some outputs in blocks of inputs: codes, what a code of 1 is worth, and the codes there are.

    All arrays are float32 of (outputs, blocks, .); the last block is filled up with zeros.
    """

    source: np.ndarray  # (outputs, blocks, block)
    codes: np.ndarray  # (outputs, blocks, block), whole numbers
    scale: np.ndarray  # (outputs, blocks, 1)
    low: np.ndarray | np.float32  # smallest code, (outputs, blocks, 1) or one number
    high: np.ndarray | np.float32  # largest code, as well


class RecordedInputs(Protocol):
    """What was recorded of a matrix's inputs, where they do not count as independent."""

    power: np.ndarray  # (inputs,) float32, the mean square of each, their mean being 1

    def codes(self, blocks: Blocks) -> np.ndarray:
        """Choose codes, of the shape of `blocks.codes`, that bring the product close."""

    def squared_error(self, difference: np.ndarray) -> float:
        """Sum the expected squares of the product with (outputs, inputs)."""


def pack(
    matrix: np.ndarray,
    form: Format,
    input_power: np.ndarray | None = None,
    recorded: RecordedInputs | None = None,
) -> Packed:
    """Convert a matrix, (outputs, inputs) float32, to its stored form.

    `input_power` (inputs,) is the expected square of each input, in any unit; None means all alike.
    Blocks are fitted to give the smallest expected error of the product, inputs being independent;
    what was `recorded` of them replaces that expectation and chooses the codes.
    Outputs are independent, so rows are packed in slices on every core; what a slice needs bounds
    the memory beside source and result.
    """
    if form.bits == 32:
        return Packed(np.ascontiguousarray(matrix.T), None, None, 0.0, 0.0)
    rows = max(1, _SLICE_WEIGHTS // matrix.shape[1])
    slices = [matrix[first : first + rows] for first in range(0, len(matrix), rows)]
    if recorded is not None:
        expected: RecordedInputs = recorded
    else:
        expected = _Independent(_error_weights(matrix.shape[1], input_power))
    pack_rows = partial(_block_rows if form.block else _int8_rows, form=form, inputs=expected)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(pack_rows, slices))
    codes = np.concatenate([part.codes for part in parts])
    scale = np.concatenate([part.scale for part in parts]).reshape(-1)
    zero_point = None
    if not form.symmetric:
        zero_point = np.concatenate([part.zero_point for part in parts])
    power = sum(expected.squared_error(part) for part in slices)
    weight = codes if form.block else np.ascontiguousarray(codes.T)
    errors = [
        float(np.sqrt(sum(squares) / power)) if power else 0.0
        for squares in zip(*(part.squared_errors for part in parts), strict=True)
    ]
    return Packed(weight, scale, zero_point, *errors)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some packed outputs."""

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None
    squared_errors: tuple[float, float]  # as stored, and as plain rounding would have stored


def _error_weights(inputs: int, input_power: np.ndarray | None) -> np.ndarray:
    """Scale powers to a mean of one; (inputs,) float32."""
    if input_power is None or not np.any(input_power > 0):
        return np.ones(inputs, np.float32)
    return (input_power / input_power.mean(dtype=np.float64)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Independent:
    """Inputs of which nothing is known but their power: the nearest code of a block is best."""

    power: np.ndarray

    def codes(self, blocks: Blocks) -> np.ndarray:
        return blocks.codes

    def squared_error(self, difference: np.ndarray) -> float:
        return float(np.sum(np.square(difference, dtype=np.float64) * self.power))


def _int8_rows(matrix: np.ndarray, form: Format, inputs: RecordedInputs) -> _Rows:
    """Symmetric 8 bits, one scale an output: codes (outputs, inputs) int8, scale (outputs,)."""
    scale = np.maximum(np.abs(matrix).max(axis=1), _TINY) / np.float32(127)
    rounded = np.rint(matrix / scale[:, None])
    one = Blocks(matrix[:, None], rounded[:, None], scale[:, None, None], *_INT8_CODES)
    codes = inputs.codes(one)[:, 0]
    errors = tuple(inputs.squared_error(x * scale[:, None] - matrix) for x in (codes, rounded))
    return _Rows(codes.astype(np.int8), scale, None, errors)


def _block_rows(matrix: np.ndarray, form: Format, inputs: RecordedInputs) -> _Rows:
    """One scale a block of inputs, as MatMulNBits reads them.

    codes (outputs, blocks, block * bits / 8) uint8, low nibble first; scale (outputs, blocks)
    float32; zero_point (outputs, bytes) uint8, None when symmetric.
    """
    outputs, width = matrix.shape
    blocks, levels = -(-width // form.block), 1 << form.bits
    grouped = np.zeros((outputs, blocks * form.block), np.float32)
    grouped[:, :width] = matrix
    grouped = grouped.reshape(outputs, blocks, form.block)
    scale, zero = _rounding(grouped, levels, form.symmetric)
    rounded = _blocks(grouped, scale, zero, levels)
    found = rounded
    if form.bits == 4:
        weights = np.pad(inputs.power, (0, blocks * form.block - width))
        scale = _fitted_blocks(rounded, weights.reshape(blocks, form.block))
        found = _blocks(grouped, scale, zero, levels)
    codes = inputs.codes(found)
    errors = tuple(
        inputs.squared_error((whole * size - grouped).reshape(outputs, -1)[:, :width])
        for whole, size in ((codes, scale), (rounded.codes, rounded.scale))
    )
    stored = (codes + zero).astype(np.uint8)
    zeros = None if form.symmetric else np.ascontiguousarray(zero[..., 0].astype(np.uint8))
    if form.bits == 4:
        stored = _nibbles(stored)
        zeros = None if zeros is None else _nibbles(np.pad(zeros, [(0, 0), (0, blocks % 2)]))
    return _Rows(stored, scale[..., 0].astype(np.float32), zeros, errors)


def _blocks(
    grouped: np.ndarray, scale: np.ndarray, zero: np.ndarray | np.float32, levels: int
) -> Blocks:
    """Round (outputs, blocks, block) to the nearest codes."""
    low, high = -zero, levels - 1 - zero
    return Blocks(grouped, _codes(grouped, scale, low, high), scale, low, high)


def _fitted_blocks(rounded: Blocks, weights: np.ndarray) -> np.ndarray:
    """Return the best of several scales for each block, (outputs, blocks, 1).

    Plain symmetric rounding puts the largest magnitude of a block on the longer side of the range
    (the choice of llama.cpp's Q4_0), asymmetric rounding its lowest and highest value on the
    range's ends. Smaller scales clip those and store the others more finely: of several, each
    refitted by least squares to the codes it gave, a block keeps the one with the smallest error.
    """
    grouped, scale, low, high = rounded.source, rounded.scale, rounded.low, rounded.high
    best, least = scale, _squared_error(rounded.codes * scale, grouped, weights)
    for share in _SCALE_SHARES:
        trial = _fitted_scale(grouped, _codes(grouped, scale * share, low, high), scale, weights)
        error = _squared_error(_codes(grouped, trial, low, high) * trial, grouped, weights)
        better = error < least
        best, least = np.where(better, trial, best), np.where(better, error, least)
    return best


def _rounding(
    grouped: np.ndarray, levels: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray | np.float32]:
    """Return scale and zero point of plain rounding, (outputs, blocks, 1) each or one number."""
    if symmetric:
        largest = np.take_along_axis(grouped, np.abs(grouped).argmax(-1)[..., None], -1)
        half = np.float32(levels // 2)
        return np.where(np.abs(largest) < _TINY, _TINY, largest / -half), half
    low = np.minimum(grouped.min(-1, keepdims=True), 0)
    high = np.maximum(grouped.max(-1, keepdims=True), 0)
    scale = np.maximum(high - low, _TINY) / np.float32(levels - 1)
    return scale, np.rint(-low / scale)


def _codes(
    grouped: np.ndarray,
    scale: np.ndarray,
    low: np.ndarray | np.float32,
    high: np.ndarray | np.float32,
) -> np.ndarray:
    return np.clip(np.rint(grouped / scale), low, high)


def _fitted_scale(
    grouped: np.ndarray, codes: np.ndarray, otherwise: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the scale that brings given codes closest to the source, block by block."""
    weighted = codes * weights
    power = np.sum(weighted * codes, axis=-1, keepdims=True)
    product = np.sum(weighted * grouped, axis=-1, keepdims=True)
    fits = (power > 0) & (product != 0)
    return np.where(fits, product / np.where(fits, power, 1), otherwise)


def _squared_error(stored: np.ndarray, source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum weighted squared differences along the last axis, kept as an axis of one."""
    return np.sum(np.square(stored - source) * weights, axis=-1, keepdims=True)


def _nibbles(values: np.ndarray) -> np.ndarray:
    """Put pairs along the last axis into one byte each, the first into the low half."""
    return values[..., 0::2] | (values[..., 1::2] << 4)
