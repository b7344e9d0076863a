"""What the arm may be asked to do on the desk, in which words, and whether it was done.

Some phrasings and all layouts of small seeds are held out: demonstrations never show them, so that
an evaluation with them says what was learnt beyond those.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from sim.layout import BIN_M, CUBE_NAMES, MARK_RADIUS_M, mark_of
from sim.model import BIN_HALF_M, BIN_HEIGHT_M, World

TOUCH, PUT_IN_BIN, PUSH_TO_MARK = "touch", "put_in_bin", "push_to_mark"
KINDS = (TOUCH, PUT_IN_BIN, PUSH_TO_MARK)

# Layouts of seeds below this are for evaluation; the demo's are among them.
FIRST_TRAINING_LAYOUT = 10_000
LAST_LAYOUT = 2**31
LAYOUT_DRAWS = 1000

PHRASINGS = {
    TOUCH: (
        "touch the {colour} cube",
        "put the fingertip on the {colour} cube",
        "reach for the {colour} cube and touch it",
        "tap the {colour} block",
        "move the gripper down to the {colour} cube",
        "poke the {colour} cube",
        "bring the gripper into contact with the {colour} block",
        "lay the fingertip on the {colour} cube",
        "make the gripper touch the {colour} block",
        "feel the {colour} cube with a finger",
    ),
    PUT_IN_BIN: (
        "put the {colour} cube in the bin",
        "pick up the {colour} cube and drop it into the bin",
        "place the {colour} block in the bin",
        "move the {colour} cube into the bin",
        "grab the {colour} cube and put it in the box",
        "the {colour} cube belongs in the bin",
        "throw away the {colour} block",
        "tidy up: the {colour} cube goes into the box",
        "clear the {colour} cube away",
        "drop the {colour} block into the box",
    ),
    PUSH_TO_MARK: (
        "push the {colour} cube to the mark",
        "slide the {colour} cube onto the white mark",
        "push the {colour} block to the white spot",
        "shove the {colour} cube over to the mark",
        "move the {colour} cube to the mark without lifting it",
        "nudge the {colour} cube onto the spot",
        "get the {colour} block to the mark",
        "by pushing, bring the {colour} cube onto the white spot",
    ),
}
HELD_OUT_PHRASINGS = {
    TOUCH: ("make contact with the {colour} cube", "lay a finger on the {colour} block"),
    PUT_IN_BIN: ("throw the {colour} cube in the bin", "tidy the {colour} block away into the box"),
    PUSH_TO_MARK: ("get the {colour} cube onto the mark by pushing", "push {colour} to the spot"),
}

TOUCH_S = 0.1
OTHERS_MAY_MOVE_M = 0.020
RESTING_M_S = 0.02
LIFTED_M = 0.030


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do with the cube of one colour."""

    kind: str
    colour: str

    def instruction(self, phrasing: int = 0, *, held_out: bool = False) -> str:
        """Return the instruction; `phrasing` counts through the phrasings, again and again."""
        phrasings = (HELD_OUT_PHRASINGS if held_out else PHRASINGS)[self.kind]
        return phrasings[phrasing % len(phrasings)].format(colour=self.colour)


def draw_layout(rng: np.random.Generator, kind: str, *, held_out: bool) -> tuple[int, int]:
    """Draw the seed of a layout, and the number of a cube with which the task can be done there."""
    bounds = (0, FIRST_TRAINING_LAYOUT) if held_out else (FIRST_TRAINING_LAYOUT, LAST_LAYOUT)
    for _ in range(LAYOUT_DRAWS):
        layout_seed, cube = int(rng.integers(*bounds)), int(rng.integers(len(CUBE_NAMES)))
        if kind != PUSH_TO_MARK or mark_of(layout_seed, cube) is not None:
            break
    return layout_seed, cube


class Referee:
    """Judges one task in one world by its physics; `look` once a tick."""

    def __init__(self, world: World, task: Task, cube: str, mark_m: np.ndarray) -> None:
        """Watch the body `cube`; `mark_m` (2,) is where it is to be pushed."""
        self.task = task
        self.succeeded = False
        self.disturbed = False  # another cube was moved
        self._world = world
        self._mark_m = mark_m
        self._cube = world.model.body(cube).id
        self._hand = [world.model.body(name).id for name in ("gripper", "jaw")]
        names = [name for name in CUBE_NAMES if name != cube]
        self._others = [world.model.body(name).id for name in names]
        self._others_m = world.data.xpos[self._others].copy()
        self._joint = world.model.body_dofadr[self._cube]
        self._touched_s = -np.inf
        self._contact_since_s: float | None = None
        self._lifted = False

    @property
    def touches(self) -> bool:
        """Whether the hand is in contact with the cube now."""
        return self._contact_since_s is not None

    def look(self) -> bool:
        """Take note of the world as it is; return whether the task has been done."""
        data = self._world.data
        mujoco.mj_kinematics(self._world.model, data)
        moved_m = np.linalg.norm(data.xpos[self._others] - self._others_m, axis=1)
        self.disturbed |= bool((moved_m > OTHERS_MAY_MOVE_M).any())
        self._note_contact()
        spot_m = data.xpos[self._cube]
        self._lifted |= bool(spot_m[2] > LIFTED_M)
        done = {TOUCH: self._touching, PUT_IN_BIN: self._binned, PUSH_TO_MARK: self._pushed}
        if not self.disturbed and done[self.task.kind](spot_m):
            self.succeeded = True
        return self.succeeded

    def _note_contact(self) -> None:
        if not hand_touches(self._world, self._cube, self._hand):
            self._contact_since_s = None
        elif self._contact_since_s is None:
            self._contact_since_s = self._world.data.time

    def _touching(self, spot_m: np.ndarray) -> bool:
        since_s = self._contact_since_s
        return since_s is not None and self._world.data.time - since_s >= TOUCH_S

    def _binned(self, spot_m: np.ndarray) -> bool:
        inside = np.all(np.abs(spot_m[:2] - BIN_M) < BIN_HALF_M) and spot_m[2] < BIN_HEIGHT_M
        return bool(inside and not self.touches and self._rests())

    def _pushed(self, spot_m: np.ndarray) -> bool:
        near = np.linalg.norm(spot_m[:2] - self._mark_m) < MARK_RADIUS_M
        return bool(near and not self._lifted and self._rests())

    def _rests(self) -> bool:
        speed_m_s = self._world.data.qvel[self._joint : self._joint + 3]
        return bool(np.linalg.norm(speed_m_s) < RESTING_M_S)


def hand_touches(world: World, body: int, hand: list[int]) -> bool:
    """Say whether a body is in contact with one of the bodies of the hand."""
    contact = world.data.contact
    pairs = world.model.geom_bodyid[contact.geom]
    return bool(
        ((pairs[:, 0] == body) & np.isin(pairs[:, 1], hand)).any()
        or ((pairs[:, 1] == body) & np.isin(pairs[:, 0], hand)).any()
    )
