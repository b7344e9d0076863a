"""The scripted expert: shows how a task is done, tick by tick, looking at the truth.

    expert = Expert(world, task, np.random.default_rng(0))
    for goal in expert.goals():
        world.step(goal)

It plans poses, to which `sim.mover` moves the arm. What went wrong it sees, and tries again: a cube
that slipped away is looked for where it is. What somebody else has begun it goes on with: a hand on
its way down to the cube goes further down, one that is around the cube closes, one that holds it
carries it to the bin. So it can say at any moment of anybody's attempt what should be done next.

Whoever learns from it sees little pictures and where the arm is, not what it knows. So nothing
that it does hangs on how a cube is turned: the hand is held the same way over every one, open wide
enough for one that stands askew, which the closing jaws turn. And from nearby it goes down at once,
while it comes over the cube, so that nobody who is not sure where that is learns to wait.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.hand import TIP_FROM_AXIS_M, Hand, Unreachable, joints_for_hand_deg
from sim.joints import GRIPPER
from sim.layout import BIN_M, CUBE_HALF_M
from sim.mover import CLEAR_M, HOVER_M, THERE, Mover, at_height
from sim.offline_world import OfflineWorld
from sim.push_line import PushLine
from sim.tasks import PUSH_TO_MARK, PUT_IN_BIN, TOUCH, Task

ATTEMPTS = 4
SPEED = 0.9  # of the quickest

LIFT_M = 0.085
GRIP_M, TOUCH_M, PUSH_M = 0.012, 2 * CUBE_HALF_M - 0.006, 0.010
ROLL_DEG = 0.0
OPEN_PERCENT, RELEASE_PERCENT, NEAR_PERCENT, CLOSED_PERCENT = 40.0, 27.0, 19.0, 3.0
SLOW_PERCENT_S = 12.0
SQUEEZE_PERCENT = 3.0  # the gate takes 3.8 % against a cube for a blocked gripper
# With 22 mm a cube is grasped from 10 mm farther in to 10 mm farther out (8 of 12 each), 15 mm to
# either side (7 of 12); with 16 mm the fixed jaw comes down on it from 5 mm farther out (8 of 12).
GRIP_BESIDE_M, FINGERS_BESIDE_M, TIP_BESIDE_M = 0.022, -0.004, TIP_FROM_AXIS_M
BIN_OVER_M, BIN_DROP_M, BIN_PITCH_DEG = 0.105, 0.075, 70.0
OVER_BIN_M = 0.030
HELD_M = 0.045
LIFTED_ENOUGH_M = 0.012
# From a cube's middle to that of the fingers behind it, whichever edge they meet.
PUSH_REACH_M = 2**0.5 * CUBE_HALF_M + 0.010
PUSH_RUN_UP_M = 0.022
BACK_OFF_M = 0.02
NEARBY_M = 0.05
# Where a hand that is not sure of a cube's place may be: standard deviation of either direction.
ASTRAY_M, ASTRAY_MOST_M = 0.028, 0.07
ASTRAY_HEIGHTS_M = (0.012, 0.085)
ASTRAY_ROLL_DEG = 4.0
OTHER_PERCENT_SHARE = 0.35  # of hands that are open as they would not be there
SOMEWHERE_DEG = (-45.0, 60.0)
DRAWS = 100
# Of a disturbance, what is left near a cube.
NEAR_LOOSENESS = 0.2
# How far from its own way a hand may be to be on it, degrees and gripper percent.
ON_THE_WAY = np.array([4.0, 6.0, 6.0, 8.0, 14.0, 12.0])


class Expert:
    """Does one task in one world; `looseness` says how far a goal may be disturbed now, 0..1."""

    def __init__(
        self, world: OfflineWorld, task: Task, rng: np.random.Generator, *, miss_m: float = 0.0
    ) -> None:
        """With `miss_m` it reaches beside the cube, as far as that, and gives up then."""
        self.attempts = 0
        self._world = world
        self._task = task
        self._cube = world.cubes[task.colour]
        self._mover = Mover(world, SPEED)
        angle_rad = rng.uniform(-np.pi, np.pi)
        self._miss_m = miss_m * np.array([np.cos(angle_rad), np.sin(angle_rad), 0.0])
        if self._pinches():
            measured = self._mover.planned[GRIPPER]
            self._mover.planned[GRIPPER] = min(world.goal[GRIPPER], measured - SQUEEZE_PERCENT)

    @property
    def looseness(self) -> float:
        """How far a goal may be disturbed now, 0..1."""
        return self._mover.looseness

    def goals(self) -> Iterator[np.ndarray]:
        """Yield a goal (6,) a tick until the task is done or given up; step the world between.

        Raises Unreachable.
        """
        if self._miss_m.any():
            yield from self._grasp() if self._task.kind == PUT_IN_BIN else self._touch()
            return
        todo = {TOUCH: self._touch, PUT_IN_BIN: self._put_in_bin, PUSH_TO_MARK: self._push}
        while self.attempts < ATTEMPTS and not self._world.succeeded:
            self.attempts += 1
            yield from todo[self._task.kind]()
        yield from self._mover.wait(0.4)

    def go_somewhere(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the goals of a way to a random place above the desk, with a random hand."""
        for _ in range(DRAWS):
            bearing_rad = np.deg2rad(rng.uniform(*SOMEWHERE_DEG))
            radius_m, height_m = rng.uniform(0.14, 0.26), rng.uniform(0.065, 0.16)
            spot_m = [np.cos(bearing_rad) * radius_m, np.sin(bearing_rad) * radius_m]
            hand = Hand(rng.uniform(-50.0, 50.0), TIP_BESIDE_M, rng.uniform(3.0, 40.0))
            try:
                pose = self._mover.pose(hand, at_height(np.array(spot_m), height_m))
            except Unreachable:
                continue
            yield from self._mover.go([*self._mover.way_up(), pose])
            return

    def go_astray(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the goals of a way to a place that is nearly right for the task, but not quite."""
        hand = self._hand()
        for _ in range(DRAWS):
            off_m = ASTRAY_M * rng.standard_normal(2)
            percent, roll_deg = hand.percent, hand.roll_deg + ASTRAY_ROLL_DEG * rng.normal()
            if rng.random() < OTHER_PERCENT_SHARE:
                percent = rng.uniform(CLOSED_PERCENT, OPEN_PERCENT)
            spot_m = at_height(self._spot_m(), rng.uniform(*ASTRAY_HEIGHTS_M))
            spot_m[:2] += off_m
            try:
                pose = self._mover.pose(Hand(roll_deg, hand.beside_m, percent), spot_m)
            except Unreachable:
                continue
            if np.hypot(*off_m) < ASTRAY_MOST_M:
                yield from self._mover.go([*self._mover.way_up(), pose])
                return

    def _hand(self) -> Hand:
        """How the hand is held over the cube."""
        if self._task.kind == PUT_IN_BIN:
            return Hand(ROLL_DEG, GRIP_BESIDE_M, OPEN_PERCENT)
        return Hand(ROLL_DEG, FINGERS_BESIDE_M, CLOSED_PERCENT)

    def _touch(self) -> Iterator[np.ndarray]:
        height_m = TOUCH_M - 0.004 * max(0, self.attempts - 1)
        yield from self._come_down(self._hand(), height_m)
        yield from self._mover.wait(0.3)

    def _put_in_bin(self) -> Iterator[np.ndarray]:
        if not self._pinches():
            yield from self._grasp()
        over = self._over_bin(BIN_OVER_M)
        if not self._is_over_bin():
            yield from self._lift()
            if not self._holds():
                return
            way = self._rest_of_the_way(over, self._over_bin(BIN_DROP_M))
            yield from self._mover.go(way, loose=0.6)
            if not self._holds():
                return
        yield from self._mover.go([_with_gripper(self._mover.planned, RELEASE_PERCENT)])
        yield from self._mover.wait(0.2)
        yield from self._mover.go([_with_gripper(over, RELEASE_PERCENT)], loose=0.5)

    def _lift(self) -> Iterator[np.ndarray]:
        if self._world.truth().tip_m[2] < LIFT_M - LIFTED_ENOUGH_M:
            yield from self._mover.go([self._mover.over_here(LIFT_M)], loose=NEAR_LOOSENESS)

    def _is_over_bin(self) -> bool:
        """Whether the hand is where it would let go."""
        tip_m = np.array(self._world.truth().tip_m)
        inside = np.abs(tip_m[:2] - BIN_M).max() < OVER_BIN_M
        return bool(inside and tip_m[2] < BIN_DROP_M + LIFTED_ENOUGH_M)

    def _grasp(self) -> Iterator[np.ndarray]:
        hand = self._hand()
        if not self._is_around_cube(hand):
            yield from self._come_down(hand, GRIP_M)
        yield from self._close()

    def _is_around_cube(self, hand: Hand) -> bool:
        """Whether the hand is where it would close, and not closed beyond the cube's width."""
        try:
            there = self._mover.pose(hand, at_height(self._spot_m(), GRIP_M))
        except Unreachable:
            return False
        off = np.abs(self._mover.planned - there)[:GRIPPER]
        return bool((off < THERE).all() and self._mover.planned[GRIPPER] > CLOSED_PERCENT + 2.0)

    def _come_down(self, hand: Hand, height_m: float) -> Iterator[np.ndarray]:
        """Go over the cube and down on it."""
        spot_m = self._spot_m()
        down = self._mover.pose(hand, at_height(spot_m, height_m))
        over_m = at_height(spot_m, self._over_height_m(spot_m))
        over = self._mover.pose(hand, over_m, at_height(spot_m, height_m))
        if len(self._rest_of_the_way(over, down)) == 2:
            yield from self._mover.go([*self._mover.way_up(), over])
            down = self._mover.pose(hand, at_height(self._spot_m(), height_m))
        yield from self._mover.go([down], loose=NEAR_LOOSENESS)

    def _over_height_m(self, spot_m: np.ndarray) -> float:
        """How high it comes over a spot: clear of the cubes, and no higher from nearby."""
        off_m = np.array(self._world.truth().tip_m)[:2] - spot_m[:2]
        return CLEAR_M if np.hypot(*off_m) < NEARBY_M else HOVER_M

    def _rest_of_the_way(self, over: np.ndarray, down: np.ndarray) -> list[np.ndarray]:
        """Return both poses, or the second alone when the hand is between them already."""
        way, done = down - over, self._mover.planned - over
        share = np.clip(done @ way / (way @ way), 0.0, 1.0)
        between = (np.abs(done - share * way) < ON_THE_WAY).all()
        return [down] if between else [over, down]

    def _close(self) -> Iterator[np.ndarray]:
        """Close until the jaws press on something, or on each other."""
        near = min(NEAR_PERCENT, self._mover.planned[GRIPPER])
        yield from self._mover.go([_with_gripper(self._mover.planned, near)], loose=0.0)
        step = SLOW_PERCENT_S * self._mover.tick_s
        while self._mover.planned[GRIPPER] > CLOSED_PERCENT:
            pressed = self._world.reading().positions[GRIPPER] - self._mover.planned[GRIPPER]
            if pressed >= SQUEEZE_PERCENT - step / 2:
                break
            self._mover.planned[GRIPPER] -= step
            yield self._mover.goal(self._mover.planned)
        yield from self._mover.wait(0.1)

    def _push(self) -> Iterator[np.ndarray]:
        mover, spot_m = self._mover, self._spot_m()
        way_m = np.append(self._world.mark_m, 0.0) - [spot_m[0], spot_m[1], 0.0]
        length_m = float(np.linalg.norm(way_m))
        direction = way_m / length_m
        begin_m = at_height(spot_m - direction * (PUSH_REACH_M + PUSH_RUN_UP_M), PUSH_M)
        end_m = begin_m + direction * (PUSH_RUN_UP_M + length_m)
        line = PushLine(mover, self._hand(), begin_m, end_m, self._over_height_m(begin_m))
        place_m = line.place(PUSH_RUN_UP_M)  # of a hand that is behind the cube already
        if place_m is None:
            if len(self._rest_of_the_way(line.over, line.down)) == 2:
                yield from mover.go([*mover.way_up(), line.over])
            yield from mover.go([line.down], loose=NEAR_LOOSENESS)
            place_m = begin_m
        for goal_m in (end_m, end_m - direction * BACK_OFF_M):
            yield from line.draw(place_m, goal_m)
            place_m = goal_m
        yield from mover.go([mover.over_here(HOVER_M)], loose=NEAR_LOOSENESS)

    def _over_bin(self, height_m: float) -> np.ndarray:
        joints = joints_for_hand_deg(
            at_height(BIN_M, height_m), ROLL_DEG, GRIP_BESIDE_M, BIN_PITCH_DEG
        )
        assert joints is not None
        return np.append(joints, self._mover.planned[GRIPPER])

    def _holds(self) -> bool:
        lifted = self._body_m(self._cube)[2] > HELD_M
        return lifted and any(self._world.touching(self._cube))

    def _pinches(self) -> bool:
        """Whether the cube is between the jaws and both touch it."""
        return all(self._world.touching(self._cube))

    def _spot_m(self) -> np.ndarray:
        return self._body_m(self._cube) + self._miss_m

    def _body_m(self, body: str) -> np.ndarray:
        return np.array(self._world.truth().cubes_m[body])


def _with_gripper(pose: np.ndarray, percent: float) -> np.ndarray:
    changed = np.array(pose)
    changed[GRIPPER] = percent
    return changed
