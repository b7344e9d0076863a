"""The scripted expert: shows how a task is done, tick by tick, looking at the truth.

    expert = Expert(world, task, np.random.default_rng(0))
    for goal in expert.goals():
        world.step(goal)

It plans where the joints shall be and sends goals that far above as gravity lets the soft servos
sag. What went wrong it sees, and tries again: a cube that slipped away is looked for where it is.
What somebody else has begun it goes on with: a hand on its way down to the cube goes further down,
one that is around the cube closes, one that holds it carries it to the bin. So it can say at any
moment of anybody's attempt what should be done next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np

from sim.hand import (
    TIP_FROM_AXIS_M,
    Hand,
    Unreachable,
    joints_for_hand_deg,
    opening_direction,
    pose_of_hand,
    roll_for_deg,
)
from sim.joints import GRIPPER
from sim.layout import BIN_M, CUBE_HALF_M
from sim.motion import PEAK_VELOCITY, Glide, glide, minimum_jerk
from sim.offline_world import OfflineWorld
from sim.tasks import PUSH_TO_MARK, PUT_IN_BIN, TOUCH, Task, hand_touches

ATTEMPTS = 4
# Of the servos' position loop at P = 16 (firmware_bridge.emulator.drive): what a load costs.
SAG_DEG_PER_NM = 7.39
LET_GO_OF_START_S = 0.6

HOVER_M, LIFT_M, LOW_M = 0.070, 0.085, 0.060
GRIP_M, TOUCH_M, PUSH_M = 0.012, 2 * CUBE_HALF_M - 0.006, 0.010
OPEN_PERCENT, NEAR_PERCENT, CLOSED_PERCENT = 27.0, 19.0, 3.0
SLOW_PERCENT_S = 12.0
SQUEEZE_PERCENT = 3.0  # the gate takes 3.8 % against a cube for a blocked gripper
GRIP_BESIDE_M, FINGERS_BESIDE_M, TIP_BESIDE_M = 0.012, -0.004, TIP_FROM_AXIS_M
# Kept free at the ends of the range for gravity and disturbances.
SPARE_DEG = 3.0
RAISED = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 0.0])
BIN_OVER_M, BIN_DROP_M, BIN_PITCH_DEG = 0.105, 0.075, 70.0
OVER_BIN_M = 0.030
HELD_M = 0.045
LIFTED_ENOUGH_M = 0.012
# Room that the moving jaw needs beyond the cube.
JAW_M, JAW_ROOM_M = 0.036, 0.030
FINGER_HALF_M = 0.010
PUSH_RUN_UP_M = 0.022
PUSH_M_S = 0.11  # at its quickest
BACK_OFF_M = 0.02
SOMEWHERE_DEG = (-45.0, 60.0)
DRAWS = 100
# Of a disturbance, what is left near a cube.
NEAR_LOOSENESS = 0.2
# How far from its own way a hand may be to be on it, degrees and gripper percent.
ON_THE_WAY = np.array([4.0, 6.0, 6.0, 8.0, 14.0, 12.0])
# And how far from a pose to be there: such as around the cube, whatever the gripper does.
THERE = np.array([3.5, 5.0, 5.0, 7.0, 12.0])
# An arm that moves is taken over as it moves; shares of a motion that may be over by then, those in
# which a second one has not begun (sim.motion, OVERLAP).
MOVING_DEG_S = 8.0
BEGUN_SHARES = (0.1, 0.2, 0.3, 0.4)
PUSH_PLACES = 6
STEP_M = 0.005


class Expert:
    """Does one task in one world; `looseness` says how far a goal may be disturbed now, 0..1."""

    def __init__(
        self, world: OfflineWorld, task: Task, rng: np.random.Generator, *, miss_m: float = 0.0
    ) -> None:
        """With `miss_m` it reaches beside the cube, as far as that, and gives up then."""
        self.looseness = 0.0
        self.attempts = 0
        self._world = world
        self._task = task
        self._cube = world.cubes[task.colour]
        self._others = [body for body in world.cubes.values() if body != self._cube]
        self._speed = float(rng.uniform(0.8, 1.0))
        angle_rad = rng.uniform(-np.pi, np.pi)
        self._miss_m = miss_m * np.array([np.cos(angle_rad), np.sin(angle_rad), 0.0])
        self._tick_s = 1.0 / world.rate_hz
        low_deg, high_deg = world.limits()[:, :GRIPPER]
        self._limits_deg = np.array([low_deg + SPARE_DEG, high_deg - SPARE_DEG])
        self._scratch = mujoco.MjData(world.world.model)
        self._planned = world.reading().positions.copy()
        self._start_error = world.goal - self._planned - self._sag(self._planned)
        if self._pinches():
            measured = self._planned[GRIPPER]
            self._planned[GRIPPER] = min(world.goal[GRIPPER], measured - SQUEEZE_PERCENT)
        self._velocity = world.reading().velocities.copy()  # as it is taken over
        self._ticks = 0

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
        yield from self._wait(0.4)

    def go_somewhere(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the goals of a way to a random place above the desk, with a random hand."""
        for _ in range(DRAWS):
            bearing_rad = np.deg2rad(rng.uniform(*SOMEWHERE_DEG))
            radius_m, height_m = rng.uniform(0.14, 0.26), rng.uniform(0.065, 0.16)
            spot_m = [np.cos(bearing_rad) * radius_m, np.sin(bearing_rad) * radius_m]
            hand = Hand(rng.uniform(-50.0, 50.0), TIP_BESIDE_M, rng.uniform(3.0, 40.0))
            try:
                pose = self._pose(hand, _at(np.array(spot_m), height_m))
            except Unreachable:
                continue
            yield from self._go([*self._way_up(), pose])
            return

    def _touch(self) -> Iterator[np.ndarray]:
        height_m = TOUCH_M - 0.004 * max(0, self.attempts - 1)
        hand = Hand(0.0, FINGERS_BESIDE_M, CLOSED_PERCENT)
        yield from self._come_down(hand, height_m)
        yield from self._wait(0.3)

    def _put_in_bin(self) -> Iterator[np.ndarray]:
        if not self._pinches():
            yield from self._grasp()
        over = self._over_bin(BIN_OVER_M)
        if not self._is_over_bin():
            yield from self._lift()
            if not self._holds():
                return
            yield from self._go(self._rest_of_the_way(over, self._over_bin(BIN_DROP_M)), loose=0.6)
            if not self._holds():
                return
        yield from self._go([_with_gripper(self._planned, OPEN_PERCENT)])
        yield from self._wait(0.2)
        yield from self._go([_with_gripper(over, OPEN_PERCENT)], loose=0.5)

    def _lift(self) -> Iterator[np.ndarray]:
        if self._world.truth().tip_m[2] < LIFT_M - LIFTED_ENOUGH_M:
            yield from self._go([self._over_here(LIFT_M)], loose=NEAR_LOOSENESS)

    def _is_over_bin(self) -> bool:
        """Whether the hand is where it would let go."""
        tip_m = np.array(self._world.truth().tip_m)
        inside = np.abs(tip_m[:2] - BIN_M).max() < OVER_BIN_M
        return bool(inside and tip_m[2] < BIN_DROP_M + LIFTED_ENOUGH_M)

    def _grasp(self) -> Iterator[np.ndarray]:
        hands = [
            Hand(roll_deg, GRIP_BESIDE_M, OPEN_PERCENT)
            for roll_deg in self._grasp_rolls_deg(self._spot_m())
        ]
        if not any(self._is_around_cube(hand) for hand in hands):
            yield from self._come_down(self._begun_with(hands, GRIP_M), GRIP_M)
        yield from self._close()

    def _is_around_cube(self, hand: Hand) -> bool:
        """Whether the hand is where it would close, and not closed beyond the cube's width."""
        try:
            there = self._pose(hand, _at(self._spot_m(), GRIP_M))
        except Unreachable:
            return False
        off = np.abs(self._planned - there)[:GRIPPER]
        return bool((off < THERE).all() and self._planned[GRIPPER] > CLOSED_PERCENT + 2.0)

    def _begun_with(self, hands: list[Hand], height_m: float) -> Hand:
        """Return the hand that is on its way down to the cube already, else the first."""
        for hand in hands:
            with contextlib.suppress(Unreachable):
                over, down = self._over_and_down(hand, height_m)
                if len(self._rest_of_the_way(over, down)) == 1:
                    return hand
        return hands[0]

    def _over_and_down(self, hand: Hand, height_m: float) -> tuple[np.ndarray, np.ndarray]:
        spot_m = self._spot_m()
        down = self._pose(hand, _at(spot_m, height_m))
        return self._pose(hand, _at(spot_m, HOVER_M), _at(spot_m, height_m)), down

    def _come_down(self, hand: Hand, height_m: float) -> Iterator[np.ndarray]:
        """Go over the cube and down on it."""
        over, down = self._over_and_down(hand, height_m)
        if len(self._rest_of_the_way(over, down)) == 2:
            yield from self._go([*self._way_up(), over])
            down = self._pose(hand, _at(self._spot_m(), height_m))
        yield from self._go([down], loose=NEAR_LOOSENESS)

    def _rest_of_the_way(self, over: np.ndarray, down: np.ndarray) -> list[np.ndarray]:
        """Return both poses, or the second alone when the hand is between them already."""
        way, done = down - over, self._planned - over
        share = np.clip(done @ way / (way @ way), 0.0, 1.0)
        between = (np.abs(done - share * way) < ON_THE_WAY).all()
        return [down] if between else [over, down]

    def _close(self) -> Iterator[np.ndarray]:
        """Close until the jaws press on something, or on each other."""
        near = min(NEAR_PERCENT, self._planned[GRIPPER])
        yield from self._go([_with_gripper(self._planned, near)], loose=0.0)
        step = SLOW_PERCENT_S * self._tick_s
        while self._planned[GRIPPER] > CLOSED_PERCENT:
            pressed = self._world.reading().positions[GRIPPER] - self._planned[GRIPPER]
            if pressed >= SQUEEZE_PERCENT - step / 2:
                break
            self._planned[GRIPPER] -= step
            yield self._goal(self._planned)
        yield from self._wait(0.1)

    def _push(self) -> Iterator[np.ndarray]:
        spot_m = self._spot_m()
        way_m = np.append(self._world.mark_m, 0.0) - [spot_m[0], spot_m[1], 0.0]
        length_m = float(np.linalg.norm(way_m))
        direction = way_m / length_m
        roll_deg = roll_for_deg(spot_m, np.rad2deg(np.arctan2(direction[1], direction[0])), 180.0)
        reach_m = self._half_width_m(direction) + FINGER_HALF_M
        begin_m = spot_m - direction * (reach_m + PUSH_RUN_UP_M)
        far_m = PUSH_RUN_UP_M + length_m
        begin_m[2], end_m = PUSH_M, _at(begin_m + direction * far_m, PUSH_M)
        hand = Hand(roll_deg, FINGERS_BESIDE_M, CLOSED_PERCENT)
        over = self._pose(hand, _at(begin_m, HOVER_M), begin_m, end_m)
        down = self._pose(hand, begin_m, end_m)
        pan_deg = down[0]
        behind_m = self._behind_cube(hand, pan_deg, begin_m, end_m)
        if behind_m is None:
            if len(self._rest_of_the_way(over, down)) == 2:
                yield from self._go([*self._way_up(), over])
            yield from self._go([down], loose=NEAR_LOOSENESS)
        else:
            begin_m = behind_m
        for goal_m in (end_m, end_m - direction * BACK_OFF_M):
            yield from self._draw_line(hand, pan_deg, begin_m, goal_m)
            begin_m = goal_m
        yield from self._go([self._over_here(HOVER_M)], loose=NEAR_LOOSENESS)

    def _behind_cube(
        self, hand: Hand, pan_deg: float, begin_m: np.ndarray, end_m: np.ndarray
    ) -> np.ndarray | None:
        """Return where on its line the hand is, (3,), None when it is not behind the cube."""
        run_up = PUSH_RUN_UP_M / np.linalg.norm(end_m - begin_m)
        for share in np.linspace(0.0, run_up, PUSH_PLACES)[1:]:
            spot_m = begin_m + share * (end_m - begin_m)
            with contextlib.suppress(Unreachable):  # of a hand that is elsewhere
                pose = self._pose(self._turned(hand, pan_deg), spot_m, begin_m, end_m)
                if (np.abs(self._planned - pose)[:GRIPPER] < THERE).all():
                    return spot_m
        return None

    def _turned(self, hand: Hand, pan_deg: float) -> Hand:
        """Return a hand that keeps its direction on the desk while the pan turns under it."""
        return replace(hand, roll_deg=hand.roll_deg + self._planned[0] - pan_deg)

    def _draw_line(
        self, hand: Hand, pan_deg: float, begin_m: np.ndarray, end_m: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Move the fingertips along a line, to which `hand` is square at a pan of `pan_deg`."""
        self.looseness = 0.0
        speed_m_s = PUSH_M_S * self._speed
        begun = self._share_begun(hand, pan_deg, begin_m, end_m, speed_m_s)
        begin_m = end_m - (end_m - begin_m) / (1.0 - minimum_jerk(begun))
        duration_s = PEAK_VELOCITY * float(np.linalg.norm(end_m - begin_m)) / speed_m_s
        for tick in range(1, round((1.0 - begun) * duration_s / self._tick_s) + 1):
            share = minimum_jerk(begun + tick * self._tick_s / duration_s)
            spot_m = begin_m + share * (end_m - begin_m)
            self._planned = self._pose(self._turned(hand, pan_deg), spot_m, begin_m, end_m)
            yield self._goal(self._planned)

    def _share_begun(
        self, hand: Hand, pan_deg: float, begin_m: np.ndarray, end_m: np.ndarray, speed_m_s: float
    ) -> float:
        """Return how much of the time along a line is over for an arm that moves along it."""
        velocity, self._velocity = self._velocity, np.zeros_like(self._velocity)
        if np.linalg.norm(velocity) < MOVING_DEG_S:
            return 0.0
        ahead_m = begin_m + (end_m - begin_m) * STEP_M / np.linalg.norm(end_m - begin_m)
        here, ahead = (
            self._pose(self._turned(hand, pan_deg), spot_m, end_m) for spot_m in (begin_m, ahead_m)
        )
        step = ahead - here
        along_m_s = STEP_M * float(velocity @ step) / float(step @ step)
        shares = np.array([0.0, *BEGUN_SHARES])
        speeds_m_s = 30.0 * (shares * (1.0 - shares)) ** 2 * speed_m_s / PEAK_VELOCITY
        return float(shares[np.argmin(np.abs(speeds_m_s - along_m_s))])

    def _go(self, waypoints: list[np.ndarray], loose: float = 1.0) -> Iterator[np.ndarray]:
        plan, begun_s = self._glide(waypoints)
        duration_s = plan.duration_s
        for tick in range(1, int(np.ceil((duration_s - begun_s) / self._tick_s)) + 1):
            t_s = begun_s + tick * self._tick_s
            share = min(1.0, t_s / duration_s)
            self.looseness = loose * 16.0 * (share * (1.0 - share)) ** 2
            self._planned = plan.at(t_s)
            yield self._goal(self._planned)
        self.looseness = 0.0

    def _glide(self, waypoints: list[np.ndarray]) -> tuple[Glide, float]:
        """Plan a motion and say how much of it is over: some, when the arm moves that way already.

        Of motions that began earlier and farther back, and are here now, the one whose velocity is
        nearest to the arm's.
        """
        velocity, self._velocity = self._velocity, np.zeros_like(self._velocity)
        best = glide(self._planned, waypoints, self._speed), 0.0
        if np.linalg.norm(velocity) < MOVING_DEG_S:
            return best
        least = np.linalg.norm(velocity)
        for share in BEGUN_SHARES:
            way = waypoints[0] - self._planned
            start = waypoints[0] - way / (1.0 - minimum_jerk(share))
            plan = glide(start, waypoints, self._speed)
            begun_s = share * plan.durations_s[0]
            step = plan.at(begun_s + self._tick_s) - plan.at(begun_s)
            off = np.linalg.norm(step / self._tick_s - velocity)
            if off < least:
                best, least = (plan, begun_s), off
        return best

    def _wait(self, duration_s: float) -> Iterator[np.ndarray]:
        self.looseness = 0.0
        for _ in range(round(duration_s / self._tick_s)):
            yield self._goal(self._planned)

    def _goal(self, planned: np.ndarray) -> np.ndarray:
        """Return the goal with which the joints come to be where they are planned."""
        self._ticks += 1
        left = 1.0 - minimum_jerk(self._ticks * self._tick_s / LET_GO_OF_START_S)
        return planned + self._sag(planned) + left * self._start_error

    def _sag(self, planned: np.ndarray) -> np.ndarray:
        world, scratch = self._world.world, self._scratch
        scratch.qpos[:] = world.data.qpos
        scratch.qpos[world.joint_qpos[:GRIPPER]] = np.deg2rad(planned[:GRIPPER])
        mujoco.mj_fwdPosition(world.model, scratch)
        mujoco.mj_fwdVelocity(world.model, scratch)
        sag = scratch.qfrc_bias[world.joint_qvel] * SAG_DEG_PER_NM
        sag[GRIPPER] = 0.0
        return sag

    def _pose(self, hand: Hand, spot_m: np.ndarray, *also_m: np.ndarray) -> np.ndarray:
        return pose_of_hand(hand, self._limits_deg, spot_m, *also_m)

    def _way_up(self) -> list[np.ndarray]:
        """Return what comes first where the hand is low: raise it before it is turned."""
        if self._world.truth().tip_m[2] > LOW_M:
            return []
        return [self._over_here(HOVER_M)]

    def _over_here(self, height_m: float) -> np.ndarray:
        """Return a pose with the hand straight above where it is."""
        hand = Hand(self._planned[4], TIP_BESIDE_M, self._planned[GRIPPER])
        try:
            return self._pose(hand, _at(np.array(self._world.truth().tip_m), height_m))
        except Unreachable:
            pose = RAISED.copy()
            pose[[0, 4, GRIPPER]] = self._planned[[0, 4, GRIPPER]]
            return pose

    def _over_bin(self, height_m: float) -> np.ndarray:
        joints = joints_for_hand_deg(_at(BIN_M, height_m), 0.0, GRIP_BESIDE_M, BIN_PITCH_DEG)
        assert joints is not None
        return np.append(joints, self._planned[GRIPPER])

    def _grasp_rolls_deg(self, spot_m: np.ndarray) -> list[float]:
        """Square to the cube's faces, first where the open jaw does not meet another cube."""
        first_deg = roll_for_deg(spot_m, self._yaw_deg(), 90.0)
        others_m = [self._body_m(body)[:2] for body in self._others]

        def room_m(roll_deg: float) -> float:
            jaw_m = (spot_m + JAW_M * opening_direction(spot_m, roll_deg))[:2]
            return min(float(np.hypot(*(jaw_m - other_m))) for other_m in others_m)

        rolls_deg = [first_deg, first_deg - np.copysign(90.0, first_deg)]
        return sorted(rolls_deg, key=lambda roll_deg: -min(room_m(roll_deg), JAW_ROOM_M))

    def _half_width_m(self, direction: np.ndarray) -> float:
        yaw_rad = np.deg2rad(self._yaw_deg())
        angle_rad = np.arctan2(direction[1], direction[0]) - yaw_rad
        return CUBE_HALF_M * float(abs(np.cos(angle_rad)) + abs(np.sin(angle_rad)))

    def _holds(self) -> bool:
        lifted = self._body_m(self._cube)[2] > HELD_M
        return lifted and any(self._touching())

    def _pinches(self) -> bool:
        """Whether the cube is between the jaws and both touch it."""
        return all(self._touching())

    def _touching(self) -> list[bool]:
        """Say which part of the hand touches the cube: the fixed finger, the jaw."""
        model = self._world.world.model
        cube = model.body(self._cube).id
        return [
            hand_touches(self._world.world, cube, [model.body(name).id])
            for name in ("gripper", "jaw")
        ]

    def _spot_m(self) -> np.ndarray:
        return self._body_m(self._cube) + self._miss_m

    def _body_m(self, body: str) -> np.ndarray:
        return np.array(self._world.truth().cubes_m[body])

    def _yaw_deg(self) -> float:
        rotation = self._world.world.data.body(self._cube).xmat.reshape(3, 3)
        return float(np.rad2deg(np.arctan2(rotation[1, 0], rotation[0, 0])))


def _at(spot_m: np.ndarray, height_m: float) -> np.ndarray:
    return np.array([spot_m[0], spot_m[1], height_m])


def _with_gripper(pose: np.ndarray, percent: float) -> np.ndarray:
    changed = np.array(pose)
    changed[GRIPPER] = percent
    return changed
