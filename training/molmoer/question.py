"""A question with its answer, before it is written to a set; and which of the two halves it is for.

A set's test half holds no content (a layout, a drawing, digits to sort) and no wording that its
train half holds; what cannot be shared out, such as a fact, is in both halves in other words.
Which half is settled by what is asked and never by the draw: a content is for testing when its
checksum says so, a wording when its opener and its sentence are one of the pairs kept back.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

TEST_SHARE = 5  # one content in so many is kept back for testing


class Split(Enum):
    """The two halves of a question set; the names are those of the folders."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Question:
    """One question. A point is right when it is near enough: `radius` says how big its object is.

    `pictures` are numbers into the pictures of the scene, in the order in which they are shown.
    """

    kind: str
    text: str
    answer: str
    pictures: tuple[int, ...] = ()
    radius: int | None = None  # of a disc as large as what is pointed to, thousandths of a picture
    goes_on: bool = False  # the answer follows the text without a gap, in the same turn


@dataclass(frozen=True, slots=True)
class Scene:
    """Pictures, and what is asked about them."""

    pictures: tuple[np.ndarray, ...]  # (height, width, 3) uint8 RGB
    questions: tuple[Question, ...]


def split_of(content: str) -> Split:
    """Tell which half of a set a content belongs to, whatever the seed."""
    return Split.TRAIN if zlib.crc32(content.encode()) % TEST_SHARE else Split.TEST


def phrase(
    sentences: Sequence[str], openers: Sequence[str], split: Split, rng: np.random.Generator
) -> str:
    """Draw a wording: an opener and a sentence, a pair that only this half uses.

    Every sentence and every opener is used in both halves as long as there are at least two openers
    and no more sentences than openers.
    """
    sentence = int(rng.integers(len(sentences)))
    kept_back = sentence % len(openers)
    if split is Split.TEST:
        return openers[kept_back] + sentences[sentence]
    others = [opener for number, opener in enumerate(openers) if number != kept_back]
    return others[int(rng.integers(len(others)))] + sentences[sentence]
