"""Layouts that questions are asked about: where cubes lie, drawn more widely than for a task.

The same layout is always of the same half of a set: two layouts are the same when their cubes have
the same colours and lie on the same square centimetres.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.molmoer.desk import COLOURS_RGB, MAX_CUBES, Desk, Place, can_pick, gap_to_bin_m
from training.molmoer.question import Split, split_of

X_M, Y_M = (0.08, 0.36), (-0.32, 0.26)  # what the front camera shows of the desk
MIN_CUBE_GAP_M = 0.055
MIN_BIN_GAP_M = 0.100
MIN_BASE_GAP_M = 0.110
CLEAR_M = 0.015  # a cube's reach is asked only when this much further on it is the same
VISIBLE = 0.6  # of an object's outline, for it to be asked about
PICTURE_MARGIN = 0.06
TIP_HEIGHTS_M = (0.07, 0.14)
# Of a hand near a cube: standard deviation of either direction, heights, and what is kept free.
NEAR_M, NEAR_HEIGHTS_M = 0.04, (0.02, 0.11)
BESIDE_M, OVER_M = 0.03, 0.05
MAX_DRAWS = 1000


def draw_layout(
    split: Split,
    rng: np.random.Generator,
    colours_known: Sequence[str] = tuple(COLOURS_RGB),
    at_least: int = 1,
) -> tuple[Place, ...]:
    """Draw `at_least` to MAX_CUBES cubes of different colours, apart from others, arm and bin."""
    for _ in range(MAX_DRAWS):
        count = int(rng.integers(at_least, MAX_CUBES + 1))
        colours = [str(name) for name in rng.permutation(list(colours_known))[:count]]
        places: list[Place] = []
        for _ in range(MAX_DRAWS):
            spot = Place(colours[len(places)], *_spot(rng), float(rng.uniform(0, np.pi / 2)))
            if _is_free(spot, places):
                places.append(spot)
            if len(places) == count:
                break
        if len(places) == count and split_of(_content(places)) is split:
            return tuple(places)
    raise RuntimeError(f"no layout for the {split.value} half in {MAX_DRAWS} draws")


def pose_freely(desk: Desk, rng: np.random.Generator) -> None:
    """Fold the arm, or hold the gripper somewhere above the desk."""
    if rng.random() < 0.15:
        desk.pose(None)
        return
    while not desk.pose(np.array([*_spot(rng), rng.uniform(*TIP_HEIGHTS_M)])):
        pass


def pose_near(desk: Desk, places: Sequence[Place], rng: np.random.Generator) -> None:
    """Hold the gripper near one of the cubes, open or not, and through none."""
    cubes_m = np.array([(place.x_m, place.y_m) for place in places])
    while True:
        spot_m = cubes_m[rng.integers(len(cubes_m))] + NEAR_M * rng.standard_normal(2)
        height_m = rng.uniform(*NEAR_HEIGHTS_M)
        is_free = height_m > OVER_M or np.hypot(*(cubes_m - spot_m).T).min() > BESIDE_M
        is_open = bool(rng.random() < 0.5)
        if is_free and desk.pose(np.array([*spot_m, height_m]), is_open=is_open):
            return


def is_plain(desk: Desk) -> bool:
    """Tell whether every object can be seen well in the front picture."""
    outlines = desk.outlines()
    return all(
        name in outlines
        and outlines[name].visible >= VISIBLE
        and all(PICTURE_MARGIN < share < 1 - PICTURE_MARGIN for share in outlines[name].centre)
        for name in desk.centres_m()
    )


def is_within_reach(place: Place) -> bool | None:
    """Tell whether the gripper can pick the cube up; None when it is too near the border."""
    steps = [(0, 0), (CLEAR_M, 0), (-CLEAR_M, 0), (0, CLEAR_M), (0, -CLEAR_M)]
    answers = {can_pick(place.x_m + x, place.y_m + y) for x, y in steps}
    return answers.pop() if len(answers) == 1 else None


def _spot(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(*X_M)), float(rng.uniform(*Y_M))


def _is_free(spot: Place, places: list[Place]) -> bool:
    return (
        all(
            np.hypot(spot.x_m - other.x_m, spot.y_m - other.y_m) >= MIN_CUBE_GAP_M
            for other in places
        )
        and gap_to_bin_m(spot.x_m, spot.y_m) >= MIN_BIN_GAP_M
        and np.hypot(spot.x_m, spot.y_m) >= MIN_BASE_GAP_M
    )


def _content(places: list[Place]) -> str:
    return str(sorted((p.colour, round(100 * p.x_m), round(100 * p.y_m)) for p in places))
