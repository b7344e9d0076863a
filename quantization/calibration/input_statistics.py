"""What calibration keeps of a matrix's inputs: mean products, and the range to quantise them in.

The mean of x_i * x_j over all rows says what an error in two weights does to the output together;
rounding needs no more (`quantization.calibration.rounding`). It is kept for pairs within a span of
inputs: all pairs where a matrix has no more inputs than that. The range is found by onnxruntime's
own collectors, which see the same rows.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

import numpy as np
from onnxruntime.quantization.calibrate import HistogramCollector

from quantization.calibration.calibration_file import InputStatistics

RANGES = ("minmax", "entropy", "percentile")
PERCENTILE = 99.999  # as onnxruntime's own calibrator
_BINS = {"entropy": 512, "percentile": 2048}
# Of 512 bins on both sides of zero that many levels: with as many levels as bins (onnxruntime's
# default) there is nothing to choose from.
_LEVELS = 128


class InputCollector:
    """Takes in rows of one value after another, and gives their statistics at the end."""

    def __init__(self, span: int, ranges: str) -> None:
        """Keep products within `span` inputs; find ranges by a method of RANGES."""
        self._span = span
        self._sums: dict[str, np.ndarray] = {}
        self._rows: dict[str, int] = {}
        self._largest: dict[str, float] = {}
        self._histograms = None
        if ranges != "minmax":
            self._histograms = HistogramCollector(
                method=ranges,
                symmetric=True,
                num_bins=_BINS[ranges],
                num_quantized_bins=_LEVELS,
                percentile=PERCENTILE,
                scenario="same",
            )

    def collect(self, name: str, rows: np.ndarray) -> None:
        """Take in (n, inputs) float32 rows of the value called `name`."""
        count, inputs = rows.shape
        span = min(self._span, inputs)
        windows = -(-inputs // span)
        padded = np.pad(rows, ((0, 0), (0, windows * span - inputs)))
        split = padded.reshape(count, windows, span).transpose(1, 2, 0)
        products = np.matmul(split, split.transpose(0, 2, 1))
        if name not in self._sums:
            self._sums[name] = np.zeros(products.shape, np.float64)
        self._sums[name] += products
        self._rows[name] = self._rows.get(name, 0) + count
        self._largest[name] = max(self._largest.get(name, 0.0), float(np.abs(rows).max()))
        if self._histograms is not None:
            with silent():
                self._histograms.collect({name: rows})

    def statistics(self) -> dict[str, InputStatistics]:
        """Give what was seen of each value."""
        limits: Mapping[str, float] = self._largest
        if self._histograms is not None and self._sums:
            with silent():
                found = self._histograms.compute_collection_result()
            limits = {name: max(-float(ends[0]), float(ends[1])) for name, ends in found.items()}
        return {
            name: InputStatistics(
                self._rows[name], (total / self._rows[name]).astype(np.float32), limits[name]
            )
            for name, total in self._sums.items()
        }


def silent() -> contextlib.AbstractContextManager[object]:
    """Keep onnxruntime's collectors, which print what they do, from printing."""
    return contextlib.redirect_stdout(io.StringIO())
