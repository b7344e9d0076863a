"""How far a pass over the depth span reaches: drafted rows cost time, and may all be thrown away.

A window sees where the span stands and answers with the position the next pass stops before. Every
answer gives the same codes; it only decides how long they take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.pass_costs import PassCosts

_MEMORY_TRIALS = 40.0  # drafts older than a scene or two no longer say how good the next one is


class Window(Protocol):
    """Chooses where a pass stops."""

    def stop(self, place: Place) -> int:
        """Return the position the next pass stops before, above `fed` and at most `length`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span stands before a pass; positions count its tokens."""

    fed: int  # tokens in the cache
    length: int  # of the whole span
    unsettled: np.ndarray  # cells still to be asked, ascending; cell c by the row at position c
    informed: np.ndarray  # bool for each of those: its draft is what the model said lately
    in_prefill: bool  # the rows ride on the pass over the prompt


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """Carry at most `tokens` unsettled tokens; None carries the whole span."""

    tokens: int | None

    def stop(self, place: Place) -> int:
        """See `Window`."""
        if self.tokens is None or place.unsettled.size == 0:
            return place.length
        limit = place.unsettled[0] + 1 + self.tokens  # position of the first unsettled + window
        if limit >= place.length:
            return place.length
        return int(place.unsettled[place.unsettled < limit][-1]) + 1


class Acceptance:
    """How often a drafted code turned out to be right, lately."""

    def __init__(self, hits: float, trials: float) -> None:
        """Start from a belief: `hits` of `trials`."""
        self._hits, self._trials = hits, trials

    @property
    def share(self) -> float:
        """Share of drafts that were right, 0 to 1."""
        return self._hits / self._trials

    def observe(self, hit: bool) -> None:
        """Learn from one draft that was checked."""
        if self._trials >= _MEMORY_TRIALS:
            self._hits, self._trials = self._hits / 2, self._trials / 2
        self._hits += hit
        self._trials += 1


@dataclass(frozen=True, slots=True)
class Trust:
    """How good drafts are that were there before, and those the model itself gave in passing."""

    drafts: Acceptance
    guesses: Acceptance

    def of(self, informed: bool) -> Acceptance:
        """Return the one that speaks of such a cell."""
        return self.guesses if informed else self.drafts

    @property
    def prefers_guesses(self) -> bool:
        """True when what the model said after a wrong code is better than the draft was."""
        return self.guesses.share >= self.drafts.share


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """Carry as many rows as settle the span soonest, from measured pass costs and drafts' luck.

    A pass that asks n cells and reaches the row of the last one keeps r_j rows, those up to cell j,
    if j is the first whose draft is wrong, and r_n if none before n is. With each draft's chance of
    being right that gives the rows to expect; the best n keeps the most a second. Inside a prefill,
    whose fixed cost is spent anyway, the best n saves the most of the later passes.
    """

    costs: PassCosts
    trust: Trust

    def stop(self, place: Place) -> int:
        """See `Window`."""
        if place.unsettled.size == 0:
            return place.length
        stops = np.append(place.unsettled + 1, place.length)
        rows = (stops - place.fed).astype(np.float64)
        chances = np.where(place.informed, self.trust.guesses.share, self.trust.drafts.share)
        kept = _expected_rows(rows, chances)
        per_second = kept / self.costs.seconds(rows)
        best = per_second.argmax()
        if place.in_prefill:
            saved_s = kept / per_second[best] - rows * self.costs.prefill_row_s
            best = saved_s.argmax()
        return int(stops[best])


def _expected_rows(rows: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Rows kept by stopping at each candidate; the last candidate asks no cell of its own."""
    reached = np.concatenate([[1.0], np.cumprod(chances)])  # all cells before were right
    lost = np.cumsum(reached[:-1] * (1 - chances) * rows[:-1])
    return np.concatenate([[0.0], lost]) + reached * rows
