"""The part of a recipe that says what is learnt from: sources, their weights, augmentation.

data:
  demos: {robot: data/demos, embodiment: so101, weight: 0.9, depth: data/demos_depth,
          styles: {act: 1, depth_act: 1}, discrete: true}
  embodied: {questions: data/questions/embodied/train, weight: 0.1}
augmentation: full
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.config_section import Section
from edge.errors import EdgeError
from training.datasets.augmentation import Augmentation, parse_augmentation
from training.errors import TrainingError
from training.examples.robot_text import ACT, DEPTH, DEPTH_ACT, STYLES

_MOST_EPISODES = 10_000_000
_ROBOT_DEFAULTS: dict[str, Any] = {
    "weight": 1.0,
    "styles": {ACT: 1.0},
    "depth": None,
    "depth_codes": "buffer",
    "depth_interval": None,
    "discrete": False,
    "episodes": None,
    "cameras": None,
    "shuffle_cameras": False,
}


class MixtureError(TrainingError):
    """A mixture that is malformed, out of range, or names what is not there."""


@dataclass(frozen=True, slots=True)
class RobotSettings:
    """One LeRobot v3 dataset."""

    name: str
    folder: Path
    embodiment: str
    weight: float
    styles: Mapping[str, float]  # how often each style is drawn, relative to the others
    depth: Path | None  # its annotations
    depth_codes: str  # "buffer": carried codes where a cell did not change; "fresh": all anew
    depth_interval: int | None  # frames between compared pictures; None = the annotations' default
    discrete: bool  # actions are also said as tokens
    episodes: tuple[int, int] | None  # first and past the last; None = all
    cameras: tuple[str, ...] | None  # feature keys in prompt order; None = the embodiment's
    shuffle_cameras: bool  # a random order per episode, as the release trains before fine-tuning


@dataclass(frozen=True, slots=True)
class QuestionSettings:
    """One folder of questions: JSON lines beside their pictures."""

    name: str
    folder: Path
    weight: float


@dataclass(frozen=True, slots=True)
class MixtureSettings:
    """All sources of a stage, and what happens to their pictures."""

    robots: tuple[RobotSettings, ...]
    questions: tuple[QuestionSettings, ...]
    augmentation: Augmentation | None

    @property
    def shares(self) -> dict[str, float]:
        """Give each source's share of the examples; they sum to 1."""
        weights = {source.name: source.weight for source in (*self.robots, *self.questions)}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}


def parse_mixture(data: Any, augmentation: Any = "none", file: str = "recipe") -> MixtureSettings:
    """Check a recipe's `data` and `augmentation`; raise `MixtureError` with file, key and value.

    Relative folders stay relative to the working directory.
    """
    try:
        section = Section(data, file, "data")
        robots, questions = [], []
        for name in section.names():
            values = section.child(name)
            if "questions" in values.names():
                questions.append(_questions(values, name))
            else:
                robots.append(_robot(values, name))
        if not robots and not questions:
            raise section.fail("", "no source; name at least one with 'robot' or 'questions'")
        if all(source.weight == 0 for source in (*robots, *questions)):
            raise section.fail("", "every weight is 0; one above 0 is needed")
        return MixtureSettings(
            tuple(robots), tuple(questions), parse_augmentation(augmentation, file)
        )
    except EdgeError as error:
        raise MixtureError(str(error)) from None


def _robot(section: Section, name: str) -> RobotSettings:
    section.fill_from(Section(_ROBOT_DEFAULTS, section.file))
    episodes = section.optional_integers("episodes", 0, _MOST_EPISODES)
    if episodes is not None and (len(episodes) != 2 or episodes[0] >= episodes[1]):
        raise section.fail("episodes", f"{list(episodes)}; give [first, past the last]")
    settings = RobotSettings(
        name=name,
        folder=Path(section.text("robot")),
        embodiment=section.text("embodiment"),
        weight=section.number("weight", 0.0, 1e6),
        styles=_styles(section.child("styles")),
        depth=_path(section.optional_text("depth")),
        depth_codes=section.text("depth_codes", ("buffer", "fresh")),
        depth_interval=section.optional_integer("depth_interval", 1, 10_000),
        discrete=section.boolean("discrete"),
        episodes=episodes,
        cameras=section.optional_texts("cameras"),
        shuffle_cameras=section.boolean("shuffle_cameras"),
    )
    needs_depth = any(settings.styles.get(style, 0) > 0 for style in (DEPTH, DEPTH_ACT))
    if needs_depth and settings.depth is None:
        raise section.fail("depth", "null; styles with depth need the folder of the annotations")
    if needs_depth and settings.shuffle_cameras:
        raise section.fail("shuffle_cameras", "true; depth belongs to the first camera")
    section.finish()
    return settings


def _styles(section: Section) -> dict[str, float]:
    section.fill_from(Section(dict.fromkeys(STYLES, 0.0), section.file))
    styles = {style: section.number(style, 0.0, 1e6) for style in STYLES}
    section.finish()
    if not any(styles.values()):
        raise section.fail("", "every style has weight 0; one above 0 is needed")
    return {style: weight for style, weight in styles.items() if weight > 0}


def _questions(section: Section, name: str) -> QuestionSettings:
    section.fill_from(Section({"weight": 1.0}, section.file))
    settings = QuestionSettings(
        name, Path(section.text("questions")), section.number("weight", 0.0, 1e6)
    )
    section.finish()
    return settings


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
