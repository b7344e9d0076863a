"""Spend a ceiling of bytes on matrices: more bits where they help the actions most.

Each matrix can be stored in several ways, each with its bytes and the harm it does to the actions
while all other matrices are whole. Errors of different matrices are taken for independent, so
harms are squares and add up. That makes the best spending a matter of gain for a byte, as in rate
control: every matrix starts at its fewest bytes, and the step with the most gain for each byte it
costs is taken next, until nothing more fits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quantization.errors import BuildError


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a matrix."""

    format: str
    size_bytes: int
    harm: float  # square of the error at the arm, for example mm2


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was chosen for every matrix."""

    formats: dict[str, str]  # by path
    size_bytes: int
    harm: float


def allocate(
    choices: Mapping[str, Sequence[Choice]], max_bytes: int, fixed_bytes: int = 0
) -> Allocation:
    """Choose one of each path's `choices` so that all take at most `max_bytes` with the fixed ones.

    Raises `BuildError` when not even the smallest of each fit.
    """
    ladders = {path: _ladder(ways) for path, ways in choices.items()}
    chosen = {path: ladder[0] for path, ladder in ladders.items()}
    left = max_bytes - fixed_bytes - sum(choice.size_bytes for choice in chosen.values())
    if left < 0:
        raise BuildError(
            f"a bundle of at most {max_bytes} bytes is asked for, the smallest has "
            f"{max_bytes - left}, of which {fixed_bytes} are not for a recipe to choose; give "
            f"--max-bytes {max_bytes - left} or more"
        )
    steps = [_step(path, ladder, 0) for path, ladder in ladders.items() if len(ladder) > 1]
    heapq.heapify(steps)
    while steps:
        _, path, rung = heapq.heappop(steps)
        ladder = ladders[path]
        cost = ladder[rung].size_bytes - chosen[path].size_bytes
        if cost <= left:
            chosen[path] = ladder[rung]
            left -= cost
        if rung + 1 < len(ladder):  # from here on less of a bargain, taken or not
            heapq.heappush(steps, _step(path, ladder, rung))
    return Allocation(
        {path: choice.format for path, choice in sorted(chosen.items())},
        sum(choice.size_bytes for choice in chosen.values()),
        sum(choice.harm for choice in chosen.values()),
    )


def most_needed(
    stored: Mapping[str, Choice], better: Mapping[str, Choice], harm_wanted: float
) -> list[str]:
    """Name the paths whose `better` form brings the harm of `stored` down to `harm_wanted`.

    The one that removes most harm comes first; all paths that help at all where that is not enough.
    """
    gains = {path: stored[path].harm - better[path].harm for path in stored if path in better}
    harm, named = sum(choice.harm for choice in stored.values()), []
    for path in sorted(gains, key=lambda path: (-gains[path], path)):
        if harm <= harm_wanted or gains[path] <= 0:
            break
        named.append(path)
        harm -= gains[path]
    return named


def _ladder(ways: Iterable[Choice]) -> list[Choice]:
    """Keep what is worth its bytes: from the fewest bytes up, each step less of a bargain."""
    ladder: list[Choice] = []
    for way in sorted(ways, key=lambda way: (way.size_bytes, way.harm)):
        if ladder and way.harm >= ladder[-1].harm:
            continue
        while len(ladder) > 1 and _bargain(ladder[-1], way) >= _bargain(ladder[-2], ladder[-1]):
            ladder.pop()
        ladder.append(way)
    return ladder


def _bargain(lower: Choice, upper: Choice) -> float:
    """Return the harm that is saved for each byte more."""
    return (lower.harm - upper.harm) / (upper.size_bytes - lower.size_bytes)


def _step(path: str, ladder: Sequence[Choice], rung: int) -> tuple[float, str, int]:
    """Give the step from `rung` to the next one, the best bargain sorting first."""
    return -_bargain(ladder[rung], ladder[rung + 1]), path, rung + 1
