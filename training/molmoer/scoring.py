"""Which answers are right, and how sure the shares are.

An answer is right when it says the same words, whatever the case, spaces and the last full stop; a
point when it is near enough (`training.molmoer.points`). Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets.dataset_files import DatasetError
from training.datasets.question_source import Question, read_questions
from training.molmoer.points import is_hit, points_in

Z_95 = 1.959964
_LARGEST_RADIUS = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with what its answer is judged by."""

    question: Question
    radius: int | None  # thousandths of a picture, where a point is asked for

    def is_right(self, answer: str) -> bool:
        """Judge an answer."""
        if self.radius is not None:
            return is_hit(answer, self.question.answer, self.radius)
        return plain(answer) == plain(self.question.answer)


@dataclass(frozen=True, slots=True)
class Score:
    """How many answers are right."""

    right: int
    asked: int

    @property
    def accuracy(self) -> float:
        """Give the share of right answers."""
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """Give Wilson's 95 % interval of the accuracy."""
        share, weight = self.accuracy, Z_95**2 / self.asked
        middle = (share + weight / 2) / (1 + weight)
        spread = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
        return max(0.0, middle - spread), min(1.0, middle + spread)


def read_asked(folder: Path, limit: int | None = None) -> list[Asked]:
    """Read the questions of a folder, or `limit` of them spread evenly over it.

    Raises `DatasetError` with file and line.
    """
    asked = [
        Asked(question, radius)
        for question, radius in zip(read_questions(folder), _radii(folder), strict=True)
    ]
    for one in asked:
        if one.radius is not None and not points_in(one.question.answer):
            raise DatasetError(
                f"{folder}: a question with a radius has the answer {one.question.answer!r}; "
                'write a point as <points coords="1 1 308 305">name</points>'
            )
    if limit is None or limit >= len(asked):
        return asked
    return [asked[number * len(asked) // limit] for number in range(limit)]


def plain(answer: str) -> str:
    """Reduce an answer to its words."""
    return " ".join(answer.split()).removesuffix(".").lower()


def score(asked: Sequence[Asked], answers: Sequence[str]) -> dict[str, Score]:
    """Count right answers by kind, in order of the kinds' names; the last is "all"."""
    right = [one.is_right(answer) for one, answer in zip(asked, answers, strict=True)]
    kinds = [one.question.kind for one in asked]
    scores = {
        kind: _count(hit for hit, its in zip(right, kinds, strict=True) if its == kind)
        for kind in sorted(set(kinds))
    }
    return {**scores, "all": _count(right)}


def best_constant(asked: Sequence[Asked]) -> dict[str, Score]:
    """Count by kind what the best answer would get that does not look at the question.

    "all" adds up the kinds: the same answer to every question of a kind.
    """
    scores = {}
    for kind in sorted({one.question.kind for one in asked}):
        its = [one for one in asked if one.question.kind == kind]
        said = {one.question.answer for one in its}
        most = max(sum(one.is_right(answer) for one in its) for answer in said)
        scores[kind] = Score(most, len(its))
    right = sum(one.right for one in scores.values())
    return {**scores, "all": Score(right, len(asked))}


def _count(hits: Iterable[bool]) -> Score:
    listed = list(hits)
    return Score(sum(listed), len(listed))


def _radii(folder: Path) -> list[int | None]:
    """Read every question's radius; the lines have been checked by `read_questions`."""
    radii: list[int | None] = []
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            if not line.strip():
                continue
            radius = json.loads(line).get("radius")
            is_whole = isinstance(radius, int) and not isinstance(radius, bool)
            if radius is not None and not (is_whole and 0 <= radius <= _LARGEST_RADIUS):
                raise DatasetError(
                    f"{file}: line {number}: radius is {radius!r}; "
                    f"thousandths of a picture, 0 to {_LARGEST_RADIUS}"
                )
            radii.append(radius)
    return radii
