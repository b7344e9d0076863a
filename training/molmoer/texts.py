"""Questions without a picture: sums, spelling, sorting, copying and short facts from templates.

They stand in for the text-only instruction data that is mixed into every stage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.molmoer.drawings import WORDS
from training.molmoer.question import Question, Scene, Split, phrase, split_of

OPENERS = ("", "Answer briefly. ", "Please. ", "Tell me. ")
LARGEST_SUMMAND = 5
SORTED_DIGITS, COPIED_DIGITS = 2, 3
MAX_DRAWS = 10_000

# What cannot be worked out (facts, spelling) or is too little to share out (sums) is the same in
# both halves, in other wordings.
_SAME_IN_BOTH = ("fact", "spelling", "sum")
_FACTS = {
    "the opposite of left": "right",
    "the opposite of right": "left",
    "the opposite of open": "close",
    "the opposite of close": "open",
    "the opposite of near": "far",
    "the opposite of far": "near",
    "the opposite of above": "below",
    "the opposite of below": "above",
    "the colour of grass": "green",
    "the colour of snow": "white",
    "the colour of the sky": "blue",
    "the colour of coal": "black",
}
_SENTENCES = {
    "sum": ("What is {a} plus {b}?", "Add {a} and {b}."),
    "spelling": ("Spell {word}.", "Give the letters of {word}."),
    "sorting": ("Sort {digits}.", "Put {digits} in order."),
    "copying": ("Say {digits}.", "Repeat {digits}."),
    "fact": ("What is {topic}?", "Name {topic}."),
}


def text_scene(split: Split, rng: np.random.Generator) -> Scene:
    """Draw one question of this half of the set."""
    kind = tuple(_SENTENCES)[int(rng.integers(len(_SENTENCES)))]
    for _ in range(MAX_DRAWS):
        fields, answer = _CONTENTS[kind](rng)
        if kind in _SAME_IN_BOTH or split_of(f"{kind} {sorted(fields.items())}") is split:
            text = phrase(_SENTENCES[kind], OPENERS, split, rng).format(**fields)
            return Scene((), (Question(kind, text, answer),))
    raise RuntimeError(f"no {kind} for the {split.value} half in {MAX_DRAWS} draws")


def kinds() -> tuple[str, ...]:
    """Name the kinds of questions asked here."""
    return tuple(_SENTENCES)


_Content = tuple[dict[str, str], str]


def _sum(rng: np.random.Generator) -> _Content:
    a, b = (int(n) for n in rng.integers(0, LARGEST_SUMMAND + 1, 2))
    return {"a": str(a), "b": str(b)}, str(a + b)


def _spelling(rng: np.random.Generator) -> _Content:
    word = WORDS[int(rng.integers(len(WORDS)))]
    return {"word": word}, "-".join(word)


def _sorting(rng: np.random.Generator) -> _Content:
    digits = [str(n) for n in rng.permutation(10)[:SORTED_DIGITS]]
    return {"digits": " ".join(digits)}, " ".join(sorted(digits))


def _copying(rng: np.random.Generator) -> _Content:
    digits = " ".join(str(n) for n in rng.integers(0, 10, COPIED_DIGITS))
    return {"digits": digits}, digits


def _fact(rng: np.random.Generator) -> _Content:
    topic = tuple(_FACTS)[int(rng.integers(len(_FACTS)))]
    return {"topic": topic}, _FACTS[topic]


_CONTENTS: dict[str, Callable[[np.random.Generator], _Content]] = {
    "sum": _sum,
    "spelling": _spelling,
    "sorting": _sorting,
    "copying": _copying,
    "fact": _fact,
}
