"""Tells a change between two series of repeats from their noise.

The figure is the ratio of medians, with an interval by the moving-block bootstrap: an interval of a
ratio says how large a change is as well as whether there is one (Kalibera and Jones, "Rigorous
benchmarking in reasonable time", ISMM 2013), medians bear the odd slow repeat, and blocks keep
neighbouring repeats together, which heat and governors make alike (Kuensch, "The jackknife and the
bootstrap for general stationary observations", Annals of Statistics 17, 1989; a rank test would
take them for independent). Blocks are as long as there are of them, and their few are reckoned with
as Student did: percentiles alone are too narrow (docs/profiling.md has what was measured).

What one run cannot show is how runs differ from each other: memory placement, what else runs, the
weather. The least change that counts is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

FEWEST_REPEATS = 10
RESAMPLES = 4000
_CHUNK = 500  # resamples at a time, which bounds the memory
_SEED = 0


@dataclass(frozen=True, slots=True)
class Ratio:
    """The second median over the first, and the interval that holds it."""

    value: float
    low: float
    high: float


def ratio_of_medians(
    first: Sequence[float], second: Sequence[float], confidence: float
) -> Ratio | None:
    """Return the ratio with a two-sided interval; None for too few repeats or a median of 0."""
    if min(len(first), len(second)) < FEWEST_REPEATS:
        return None
    median_first, median_second = float(np.median(first)), float(np.median(second))
    if median_first <= 0:
        return None
    random = np.random.default_rng(_SEED)
    denominators = _medians(np.asarray(first, np.float64), random)
    numerators = _medians(np.asarray(second, np.float64), random)
    ratios = numerators[denominators > 0] / denominators[denominators > 0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    n = min(len(first), len(second))
    value, wider = median_second / median_first, _wider(n / _length(n) - 1, 1 - tail)
    below, above = wider * (value - float(low)), wider * (float(high) - value)
    return Ratio(value, max(0.0, value - below), value + above)


def _length(n: int) -> int:
    return round(n**0.5)


def _wider(freedom: float, share: float) -> float:
    """Return Student's quantile over the normal one, by its expansion (Abramowitz 26.7.5)."""
    z = NormalDist().inv_cdf(share)
    return (
        1
        + (z**2 + 1) / (4 * freedom)
        + (5 * z**4 + 16 * z**2 + 3) / (96 * freedom**2)
        + (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / (384 * freedom**3)
    )


def _medians(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the medians of resamples made of blocks of neighbours; (RESAMPLES,)."""
    length = _length(len(values))
    blocks = -(-len(values) // length)
    within = np.arange(length)
    medians = []
    for _ in range(0, RESAMPLES, _CHUNK):
        starts = random.integers(0, len(values) - length + 1, (_CHUNK, blocks, 1))
        drawn = values[(starts + within).reshape(_CHUNK, -1)[:, : len(values)]]
        medians.append(np.median(drawn, axis=1))
    return np.concatenate(medians)
