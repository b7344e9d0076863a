"""Questions about the order of events: pictures of one episode, shuffled.

An episode is the demo task, a cube put in the bin, as a row of stages. Any of its pictures tells
which stage it is, so that the order is certain.
"""

from __future__ import annotations

import numpy as np

from sim.layout import BIN_M, CUBE_HALF_M
from training.molmoer.desk import BIN, FRONT, Desk, Place, can_pick
from training.molmoer.layouts import VISIBLE, draw_layout
from training.molmoer.question import Question, Scene, Split, phrase

OPENERS = ("", "These are of one episode. ", "Answer briefly. ", "Tell me. ")
ABOVE_M = 0.09
IN_THE_BIN_M = 0.003 + CUBE_HALF_M
PICTURES = (2, 3, 4)
SHARES = (0.6, 0.25, 0.15)  # of questions with so many pictures
KIND = "order"

_SENTENCES = {
    True: (
        "The {a} goes into the bin. Which picture is first?",
        "Put the {a} in the bin: which is first?",
    ),
    False: (
        "The {a} goes into the bin. Which picture is last?",
        "Put the {a} in the bin: which is last?",
    ),
}
_QUESTIONS = 3


def episode_scene(desk: Desk, split: Split, rng: np.random.Generator) -> Scene:
    """Put a cube in the bin, stage by stage, and ask which picture is the first or the last."""
    while True:
        places = draw_layout(split, rng)
        target = places[0]
        if can_pick(target.x_m, target.y_m):
            pictures = _stages(desk, places, rng)
            if pictures is not None:
                break
    questions = tuple(_question(target, len(pictures), split, rng) for _ in range(_QUESTIONS))
    return Scene(pictures, questions)


def _question(target: Place, stages: int, split: Split, rng: np.random.Generator) -> Question:
    shown = int(rng.choice(PICTURES, p=SHARES))
    first = bool(rng.random() < 0.5)
    order = tuple(int(number) for number in rng.permutation(stages)[:shown])
    wanted = min(order) if first else max(order)
    text = phrase(_SENTENCES[first], OPENERS, split, rng).format(a=target.name)
    return Question(KIND, text, str(order.index(wanted) + 1), order)


def _stages(
    desk: Desk, places: tuple[Place, ...], rng: np.random.Generator
) -> tuple[np.ndarray, ...] | None:
    """Render folded, above the cube, holding it, above the bin, let go; None: hardly to be seen."""
    target = places[0]
    desk.dress(rng)
    desk.lay_out(places)
    body = desk.body_of(target.name)
    on_desk_m = np.array([target.x_m, target.y_m, CUBE_HALF_M])
    above_m = np.array([target.x_m, target.y_m, ABOVE_M])
    above_bin_m = np.array([*(BIN_M + rng.uniform(-0.01, 0.01, 2)), ABOVE_M])
    in_bin_m = np.array([*(BIN_M + rng.uniform(-0.02, 0.02, 2)), IN_THE_BIN_M])
    stages = (
        (None, True, on_desk_m),
        (above_m, True, on_desk_m),
        (above_m, False, above_m),
        (above_bin_m, False, above_bin_m),
        (above_bin_m, True, in_bin_m),
    )
    pictures = []
    for tip_m, is_open, cube_m in stages:
        if not desk.pose(tip_m, is_open=is_open):
            return None
        desk.move(body, cube_m, target.yaw_rad)
        desk.settle()
        if tip_m is None and not _all_seen(desk):
            return None
        pictures.append(desk.picture(FRONT))
    return tuple(pictures)


def _all_seen(desk: Desk) -> bool:
    outlines = desk.outlines()
    return all(
        name in outlines and outlines[name].visible >= VISIBLE
        for name in desk.centres_m()
        if name != BIN
    )
