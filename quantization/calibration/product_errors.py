"""How far the products of stored matrices are from full precision, on recorded inputs.

A weight's error counts by what it is multiplied with, and errors can cancel; the mean products of a
calibration say what is left. To judge calibrated bundles, record other episodes than those they
were calibrated on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edge.bundle import graph_files
from edge.manifest import Manifest, read_manifest
from quantization.calibration.calibration_file import Calibration
from quantization.calibration.rounding import RecordedMoments
from quantization.errors import BuildError
from quantization.formats import Format, parse_format


@dataclass(frozen=True, slots=True)
class ProductErrors:
    """Of one matrix, in each bundle: RMS error of the product over RMS of the product."""

    layer: str
    formats: tuple[str, ...]
    errors: tuple[float, ...]


def product_errors(
    whole: Path, bundles: Sequence[Path], calibration: Calibration
) -> Iterator[ProductErrors]:
    """Compare the matrices of `bundles` with those of the fp32 bundle `whole`, one by one.

    Raises `BuildError` when they are not of one checkpoint. A graph's weights are held in memory.
    """
    source = read_manifest(whole)
    calibration.check_source(source.source.sha256)
    manifests = [read_manifest(path) for path in bundles]
    for path, manifest in zip(bundles, manifests, strict=True):
        if manifest.source.sha256 != source.source.sha256:
            raise BuildError(f"{path} and {whole} come from different checkpoints")
    for name in graph_files(source):
        graph = name.removesuffix(".onnx")
        layers = sorted(x for x in source.recipe.layers if x.startswith(f"{graph}/"))
        exact = _weights(whole / name)
        stored = [_weights(path / name) for path in bundles]
        for layer in layers:
            part = layer.removeprefix(f"{graph}/")
            matrix = exact[f"{part}.weight"].T
            inputs = matrix.shape[1]
            recorded = RecordedMoments(calibration.statistics(layer, inputs).moments, inputs)
            power = recorded.squared_error(matrix)
            entries = [manifest.recipe.layers[layer] for manifest in manifests]
            errors = [
                recorded.squared_error(
                    _matrix(weights, part, parse_format(entry.format), inputs) - matrix
                )
                for weights, entry in zip(stored, entries, strict=True)
            ]
            yield ProductErrors(
                layer,
                tuple(entry.format for entry in entries),
                tuple(float(np.sqrt(error / power)) if power else 0.0 for error in errors),
            )


def recipe_names(bundles: Sequence[Path]) -> list[str]:
    """Return how each bundle calls its recipe."""
    manifests: list[Manifest] = [read_manifest(path) for path in bundles]
    return [manifest.recipe.name for manifest in manifests]


def _weights(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer
    }


def _matrix(weights: dict[str, np.ndarray], part: str, form: Format, inputs: int) -> np.ndarray:
    """Undo `quantization.formats.pack`; (outputs, inputs) float32."""
    name = f"{part}.weight"
    if form.bits == 32:
        return weights[name].T
    if not form.block:
        if f"{name}_quantized" in weights:  # as ORTQuantizer names it
            return (weights[f"{name}_quantized"] * weights[f"{name}_scale"]).T
        return (weights[name] * weights[f"{part}.scale"]).T
    codes, scale = weights[name], weights[f"{part}.scale"]
    outputs, blocks = codes.shape[:2]
    if form.bits == 4:
        codes = _from_nibbles(codes)
    zero = np.float32(1 << (form.bits - 1))
    if not form.symmetric:
        zeros = weights[f"{part}.zero_point"].reshape(outputs, -1)
        zeros = _from_nibbles(zeros) if form.bits == 4 else zeros
        zero = zeros[:, :blocks, None].astype(np.float32)
    matrix = (codes.astype(np.float32) - zero) * scale.reshape(outputs, blocks, 1)
    return matrix.reshape(outputs, -1)[:, :inputs]


def _from_nibbles(packed: np.ndarray) -> np.ndarray:
    """Take two values out of each byte along the last axis, the low half first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
