"""Draw the examples of a run: which source, then whatever that source draws.

Example `number` is a function of (seed, number) alone: no state, so a resumed run, a run on two
processes and a run with gradient accumulation see the same examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.datasets.settings import MixtureSettings
from training.examples.example import Example, ExampleSource

if TYPE_CHECKING:
    from edge.action_tokens import ActionTokenizer


@dataclass(frozen=True, slots=True)
class MixtureContext:
    """What a run knows and the recipe's `data` does not say."""

    seed: int
    checkpoint: Path  # whose prompt format, sizes and depth cells the examples fit
    norm_stats: Path  # a norm_stats.json with the tag of every embodiment
    action_tokenizer: ActionTokenizer | None = None  # needed where actions are said as tokens


class Mixture:
    """All sources of a stage, drawn from by weight."""

    def __init__(self, settings: MixtureSettings, context: MixtureContext) -> None:
        """Open and check every source; raise `TrainingError` before any training."""
        self.sources = open_sources(settings, context)
        shares = settings.shares
        self._seed = context.seed
        self._shares = [shares[source.name] for source in self.sources]

    def example(self, number: int) -> Example:
        """Draw example `number` of the run."""
        rng = np.random.default_rng((self._seed, number))
        source = self.sources[rng.choice(len(self.sources), p=self._shares)]
        return source.example(number, rng)


def open_sources(settings: MixtureSettings, context: MixtureContext) -> list[ExampleSource]:
    """Open the sources that have a weight above 0, in the recipe's order."""
    from training.datasets.question_source import QuestionSource
    from training.datasets.robot_source import RobotSource

    sources: list[ExampleSource] = []
    for robot in settings.robots:
        if robot.weight > 0:
            sources.append(RobotSource(robot, context, settings.augmentation))
    for questions in settings.questions:
        if questions.weight > 0:
            sources.append(QuestionSource(questions, settings.augmentation))
    return sources
