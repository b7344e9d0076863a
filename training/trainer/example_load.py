"""How much an example of a recipe weighs, estimated from the recipe alone: tokens, pictures."""

from __future__ import annotations

from dataclasses import dataclass

from training.datasets.embodiment import load_embodiment
from training.datasets.settings import QuestionSettings, RobotSettings
from training.examples.robot_text import ACT, DEPTH
from training.trainer.model_shape import Shape
from training.trainer.recipe import Recipe

# A prompt of two cameras has about 496 tokens on an SO-101 (public measurements): what is left
# when the pictures' are taken away.
PROMPT_TOKENS = 75
ACTION_TOKENS = 30  # of a chunk; 13 measured on an SO-101's, two arms and fast motion take more
DEPTH_TOKENS = 103  # 100 codes, their frame, end of turn
QUESTION_TOKENS = 60
ANSWER_TOKENS = 20


@dataclass(frozen=True, slots=True)
class ExampleLoad:
    """One example, or the mean of several."""

    tokens: float  # all of them
    learnt: float  # tokens with a label
    pictures: float
    chunks: float  # 1 where the expert learns from it


def mean_load(recipe: Recipe, shape: Shape) -> ExampleLoad:
    """Return the mean over the recipe's mixture: what a step's work is computed from."""
    loads = _loads(recipe, shape)
    total = sum(weight for weight, _ in loads)
    return ExampleLoad(
        *(
            sum(weight * getattr(load, field) for weight, load in loads) / total
            for field in ExampleLoad.__slots__
        )
    )


def largest_load(recipe: Recipe, shape: Shape) -> ExampleLoad:
    """Return the largest of every figure: what memory is computed from, as batches are padded."""
    loads = [load for weight, load in _loads(recipe, shape) if weight > 0]
    return ExampleLoad(
        *(max(getattr(load, field) for load in loads) for field in ExampleLoad.__slots__)
    )


def _loads(recipe: Recipe, shape: Shape) -> list[tuple[float, ExampleLoad]]:
    shares = recipe.mixture.shares
    loads = []
    for robot in recipe.mixture.robots:
        total = sum(robot.styles.values())
        loads += [
            (shares[robot.name] * weight / total, _robot(robot, style, recipe, shape))
            for style, weight in robot.styles.items()
        ]
    loads += [(shares[asked.name], _question(asked, shape)) for asked in recipe.mixture.questions]
    return loads


def _robot(robot: RobotSettings, style: str, recipe: Recipe, shape: Shape) -> ExampleLoad:
    pictures = len(robot.cameras or load_embodiment(robot.embodiment).cameras)
    learnt = 0 if style == ACT else DEPTH_TOKENS
    if robot.discrete and style != DEPTH:
        learnt += ACTION_TOKENS
    chunks = 0.0 if style == DEPTH or recipe.flow is None else 1.0
    tokens = PROMPT_TOKENS + pictures * shape.picture_tokens + learnt
    return ExampleLoad(tokens, learnt, pictures, chunks)


def _question(_: QuestionSettings, shape: Shape) -> ExampleLoad:
    tokens = shape.picture_tokens + QUESTION_TOKENS + ANSWER_TOKENS
    return ExampleLoad(tokens, ANSWER_TOKENS, 1.0, 0.0)
