"""How far a pass over the depth span reaches: drafted rows cost time, and may all be thrown away.

A window sees where the span stands and answers with the position the next pass stops before. Every
answer gives the same codes; it only decides how long they take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.pass_costs import PassCosts

_MEMORY_TRIALS = 200.0  # drafts much older than that no longer say how good the next one is


class Window(Protocol):
    """Chooses where a pass stops."""

    def stop(self, fed: int, unsettled: np.ndarray, length: int, *, in_prefill: bool) -> int:
        """Return the position the next pass stops before, above `fed` and at most `length`.

        Positions count span tokens; `unsettled` are the cells still to be asked, ascending, each
        predicted by the row at the position of its own number. `in_prefill` when the rows ride on a
        pass over the prompt.
        """


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """Carry at most `tokens` unsettled tokens; None carries the whole span."""

    tokens: int | None

    def stop(self, fed: int, unsettled: np.ndarray, length: int, *, in_prefill: bool) -> int:
        """See `Window`."""
        if self.tokens is None or unsettled.size == 0:
            return length
        limit = unsettled[0] + 1 + self.tokens  # position of the first unsettled token + window
        if limit >= length:
            return length
        return int(unsettled[unsettled < limit][-1]) + 1


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
class MeasuredWindow:
    """Carry as many rows as settle the span soonest, from measured pass costs and drafts' luck.

    A pass that asks n cells and reaches the row of the last one is expected to keep
    sum over j < n of p^(j-1) (1-p) r_j, plus p^(n-1) r_n rows, where p is the share of right drafts
    and r_j the rows up to cell j. The best n keeps the most rows a second. Inside a prefill, whose
    fixed cost is spent anyway, the best n saves the most of the later passes.
    """

    costs: PassCosts
    acceptance: Acceptance

    def stop(self, fed: int, unsettled: np.ndarray, length: int, *, in_prefill: bool) -> int:
        """See `Window`."""
        if unsettled.size == 0:
            return length
        stops = np.append(unsettled + 1, length)
        rows = (stops - fed).astype(np.float64)
        kept = _expected_rows(rows, self.acceptance.share)
        per_second = kept / self.costs.seconds(rows)
        best = per_second.argmax()
        if in_prefill:
            saved_s = kept / per_second[best] - rows * self.costs.prefill_row_s
            best = saved_s.argmax()
        return int(stops[best])


def _expected_rows(rows: np.ndarray, share: float) -> np.ndarray:
    """Rows kept by stopping at each candidate; the last candidate asks no cell of its own."""
    reached = share ** np.arange(len(rows))  # probability that all cells before were right
    lost_before = np.concatenate([[0.0], np.cumsum(reached[:-1] * (1 - share) * rows[:-1])])
    return lost_before + reached * rows
