"""Tells a change between two series of repeats from their noise.

The figure is the ratio of medians, with an interval by the moving-block bootstrap: an interval of a
ratio says how large a change is as well as whether there is one (Kalibera and Jones, "Rigorous
benchmarking in reasonable time", ISMM 2013), medians bear the odd slow repeat, and blocks keep
neighbouring repeats together, which heat and governors make alike (Kuensch, "The jackknife and the
bootstrap for general stationary observations", Annals of Statistics 17, 1989; a rank test would
take them for independent).

What one run cannot show is how runs differ from each other: memory placement, what else runs, the
weather. The least change that counts is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    return Ratio(median_second / median_first, float(low), float(high))


def _medians(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the medians of resamples made of blocks of neighbours; (RESAMPLES,)."""
    length = round(len(values) ** (1 / 3)) or 1
    blocks = -(-len(values) // length)
    within = np.arange(length)
    medians = []
    for _ in range(0, RESAMPLES, _CHUNK):
        starts = random.integers(0, len(values) - length + 1, (_CHUNK, blocks, 1))
        drawn = values[(starts + within).reshape(_CHUNK, -1)[:, : len(values)]]
        medians.append(np.median(drawn, axis=1))
    return np.concatenate(medians)
