"""One thing to learn from: pictures, a prompt, what should follow, perhaps a chunk of actions.

Every source of data gives these, whatever it is made of; the batch is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Chunk:
    """Actions that follow an observation, as the expert learns them."""

    actions: np.ndarray  # (horizon, action_dim) float32, normalised to [-1, 1]
    horizon_is_pad: np.ndarray  # (horizon,) bool, True past the end of the episode


@dataclass(frozen=True, slots=True)
class Example:
    """What one draw of a data source gives."""

    number: int  # the how-manieth example of the run; seeds all that is random about it
    source: str  # name of the data source, for the figures of a step
    images: tuple[np.ndarray, ...]  # (height, width, 3) uint8 RGB, augmented, in prompt order
    question: str  # the prompt behind the pictures' tokens, up to and with the trigger tokens
    answer: str  # what the model learns to say then, end of turn included; "" for nothing
    chunk: Chunk | None  # None where there is nothing for the expert
    depth_codes: tuple[int, ...] = ()  # codes inside `answer`, in order; their inputs get noise


class ExampleSource(Protocol):
    """A data source: drawn from by number, so that a run is resumed without any state of it."""

    name: str

    def example(self, number: int, rng: np.random.Generator) -> Example:
        """Draw one example; `rng` is seeded by the run and `number` alone."""
        ...
