"""How far a pass over the depth span reaches: drafted rows cost time, and may all be thrown away.

A window sees where the span stands and answers with the position the next pass stops before. Every
answer gives the same codes; it only decides how long they take.
"""

from __future__ import annotations

import enum
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
    sources: np.ndarray  # `Source` of the draft of each of those
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


class Source(enum.IntEnum):
    """Where the draft of a cell comes from."""

    BEFORE = 0  # it was there before: the last call's code, or a guess from neighbours
    CLEAR = 1  # the model said so behind a wrong code further up, without doubt
    CLOSE = 2  # it said so, but another code was nearly as good
    ASTRAY = 3  # it said so right behind a wrong code: its own input was wrong
    AGREED = 4  # it said, behind a wrong code, what was drafted already


class Trust:
    """How often drafts of each source turned out to be right."""

    def __init__(self, *acceptance: Acceptance) -> None:
        """Take one of each `Source`, in their order."""
        self._acceptance = acceptance

    @property
    def shares(self) -> np.ndarray:
        """(sources,) share of drafts that were right, in the order of `Source`."""
        return np.array([acceptance.share for acceptance in self._acceptance])

    def observe(self, candidates: np.ndarray, code: int) -> None:
        """Learn from a cell that came out as `code`; `candidates` (sources,), -1 where none."""
        for acceptance, candidate in zip(self._acceptance, candidates, strict=True):
            if candidate >= 0:
                acceptance.observe(bool(candidate == code))


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """Carry as many rows as settle the span soonest, from measured pass costs and drafts' luck.

    A pass that asks n cells and reaches the row of the last one keeps r_j rows, those up to cell j,
    if j is the first whose draft is wrong, and r_n if none before n is. The cells behind j are told
    anew, and a wrong draft that is mended so saves a later pass. With each draft's chance of being
    right that gives the rows to expect; the best n gains the most a second. Inside a prefill, whose
    fixed cost is spent anyway, the best n saves the most of the later passes.
    """

    costs: PassCosts
    trust: Trust

    def stop(self, place: Place) -> int:
        """See `Window`."""
        if place.unsettled.size == 0:
            return place.length
        stops = np.append(place.unsettled + 1, place.length)
        rows = (stops - place.fed).astype(np.float64)
        chances = self.trust.shares[place.sources]
        reached = np.concatenate([[1.0], np.cumprod(chances)])  # all cells before were right
        kept = _expected_rows(rows, chances, reached)
        seconds = self.costs.seconds(rows)
        pass_rows = self.costs.seconds(np.ones(1))[0] * (kept / seconds).max()
        gained = kept + pass_rows * self._mended(place.unsettled, chances, reached)
        per_second = gained / seconds
        best = per_second.argmax()
        if place.in_prefill:
            saved_s = gained / per_second[best] - rows * self.costs.prefill_row_s
            best = saved_s.argmax()
        return int(stops[best])

    def _mended(self, cells: np.ndarray, chances: np.ndarray, reached: np.ndarray) -> np.ndarray:
        """Wrong drafts that a pass over the first 1, 2, ... n, n cells can be expected to find."""
        shares = self.trust.shares
        follows = np.diff(cells, prepend=-1) == 1  # its input is the draft before it
        sound = np.where(follows, np.concatenate([[1.0], chances[:-1]]), 1.0)
        told = shares[[Source.CLEAR, Source.CLOSE]].mean()
        afterwards = chances * shares[Source.AGREED] + (1 - chances) * told
        mended = np.cumsum((1 - reached[:-1]) * sound * np.maximum(afterwards - chances, 0))
        return np.append(mended, mended[-1])


def _expected_rows(rows: np.ndarray, chances: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Rows kept by stopping at each candidate; the last candidate asks no cell of its own."""
    lost = np.cumsum(reached[:-1] * (1 - chances) * rows[:-1])
    return np.concatenate([[0.0], lost]) + reached * rows
