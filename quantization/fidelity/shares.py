"""Shares of trials that succeeded, how sure they are, and whether two sets of them differ.

Intervals are those that stay honest with few failures, where the usual ones shrink to nothing:
Wilson's score interval for a share (Journal of the American Statistical Association 22, 1927), and
for the difference of two shares of the same trials Newcombe's combination of two of them
(Statistics in Medicine 17, 1998, method 10). The test beside it is McNemar's, exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of some trials, with its 95 % interval."""

    count: int
    trials: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How two sets of results of the same trials differ, with the 95 % interval."""

    trials: int
    only_first: int  # trials in which the first succeeded and the second did not
    only_second: int
    difference: float  # share of the first minus that of the second
    low: float
    high: float
    p_value: float  # of so uneven a split of the trials in which they differ, were they alike


def share_of(count: int, trials: int) -> Share:
    """Return `count` of `trials`, at least one, with Wilson's interval."""
    share = count / trials
    spread = _Z**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    low = 0.0 if count == 0 else middle - reach
    high = 1.0 if count == trials else middle + reach
    return Share(count, trials, share, low, high)


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare results of the same trials, in the same order, at least one."""
    pairs = list(zip(first, second, strict=True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    ours, theirs = (share_of(both + only, len(pairs)) for only in (only_first, only_second))
    difference = (only_first - only_second) / len(pairs)
    phi = _correlation(both, only_first, only_second, neither)
    down = _joined(ours.share - ours.low, theirs.high - theirs.share, phi)
    up = _joined(ours.high - ours.share, theirs.share - theirs.low, phi)
    return PairedDifference(
        trials=len(pairs),
        only_first=only_first,
        only_second=only_second,
        difference=difference,
        low=difference - down,
        high=difference + up,
        p_value=_even_split(only_first, only_second),
    )


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Return the correlation of two results, drawn towards zero where it is positive."""
    margins = (both + only_first) * (only_second + neither)
    margins *= (both + only_second) * (only_first + neither)
    if not margins:
        return 0.0
    cross = both * neither - only_first * only_second
    if cross > 0:
        cross = max(0.0, cross - (both + only_first + only_second + neither) / 2)
    return cross / math.sqrt(margins)


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _even_split(one: int, other: int) -> float:
    """Return the two-sided p-value of a fair coin that fell `one` and `other` times."""
    tosses, fewer = one + other, min(one, other)
    tail = sum(math.comb(tosses, heads) for heads in range(fewer + 1)) / 2**tosses
    return min(1.0, 2 * tail)
