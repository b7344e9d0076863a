"""Moves the simulated arm along planned poses: what the scripted expert does its tasks with.

It sends goals that far above the planned joints as gravity lets the soft servos sag, and takes an
arm that moves over as it moves.
"""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np

from sim.hand import TIP_FROM_AXIS_M, Hand, Unreachable, pose_of_hand
from sim.joints import GRIPPER
from sim.motion import Glide, glide, minimum_jerk
from sim.offline_world import OfflineWorld

# Of the servos' position loop at P = 16 (firmware_bridge.emulator.drive): what a load costs.
SAG_DEG_PER_NM = 7.39
LET_GO_OF_START_S = 0.6
# Kept free at the ends of the range for gravity and disturbances.
SPARE_DEG = 3.0
RAISED = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 0.0])
HOVER_M = 0.070
CLEAR_M, LOW_M = 0.048, 0.044  # a hand may move sideways over the cubes; it may not
# How far from a pose to be there, degrees, whatever the gripper does.
THERE = np.array([3.5, 5.0, 5.0, 7.0, 12.0])
# An arm that moves is taken over as it moves; shares of a motion that may be over by then, those in
# which a second one has not begun (sim.motion, OVERLAP).
MOVING_DEG_S = 8.0
BEGUN_SHARES = (0.1, 0.2, 0.3, 0.4)


class Mover:
    """Goals for one arm in one world; `looseness` says how far one may be disturbed now, 0..1."""

    def __init__(self, world: OfflineWorld, speed: float) -> None:
        """Take the arm over where it is; `speed` is a share of the quickest."""
        self.looseness = 0.0
        self.speed = speed
        self.tick_s = 1.0 / world.rate_hz
        self.planned = world.reading().positions.copy()
        self._velocity = world.reading().velocities.copy()  # as it is taken over
        self._world = world
        low_deg, high_deg = world.limits()[:, :GRIPPER]
        self._limits_deg = np.array([low_deg + SPARE_DEG, high_deg - SPARE_DEG])
        self._scratch = mujoco.MjData(world.world.model)
        self._start_error = world.goal - self.planned - self._sag(self.planned)
        self._ticks = 0

    def go(self, waypoints: list[np.ndarray], loose: float = 1.0) -> Iterator[np.ndarray]:
        """Yield the goals of a way through poses (6,)."""
        plan, begun_s = self._glide(waypoints)
        duration_s = plan.duration_s
        for tick in range(1, int(np.ceil((duration_s - begun_s) / self.tick_s)) + 1):
            t_s = begun_s + tick * self.tick_s
            share = min(1.0, t_s / duration_s)
            self.looseness = loose * 16.0 * (share * (1.0 - share)) ** 2
            yield self.goal(plan.at(t_s))
        self.looseness = 0.0

    def wait(self, duration_s: float) -> Iterator[np.ndarray]:
        """Yield the goals of staying."""
        self.looseness = 0.0
        for _ in range(round(duration_s / self.tick_s)):
            yield self.goal(self.planned)

    def goal(self, planned: np.ndarray) -> np.ndarray:
        """Plan a pose (6,), and return the goal with which the joints come to be there."""
        self.planned = planned
        self._ticks += 1
        left = 1.0 - minimum_jerk(self._ticks * self.tick_s / LET_GO_OF_START_S)
        return planned + self._sag(planned) + left * self._start_error

    def take_velocity(self) -> np.ndarray:
        """Return what the arm still moves with (6,), deg/s: once, then it is planned for."""
        velocity, self._velocity = self._velocity, np.zeros_like(self._velocity)
        return velocity

    def pose(self, hand: Hand, spot_m: np.ndarray, *also_m: np.ndarray) -> np.ndarray:
        """Return the pose (6,) of a hand at a spot; raise Unreachable, for `also_m` too."""
        return pose_of_hand(hand, self._limits_deg, spot_m, *also_m)

    def way_up(self) -> list[np.ndarray]:
        """Return what comes first where the hand is low: raise it before it is turned."""
        if self._world.truth().tip_m[2] > LOW_M:
            return []
        return [self.over_here(HOVER_M)]

    def over_here(self, height_m: float) -> np.ndarray:
        """Return a pose with the hand straight above where it is."""
        hand = Hand(self.planned[4], TIP_FROM_AXIS_M, self.planned[GRIPPER])
        try:
            return self.pose(hand, at_height(np.array(self._world.truth().tip_m), height_m))
        except Unreachable:
            pose = RAISED.copy()
            pose[[0, 4, GRIPPER]] = self.planned[[0, 4, GRIPPER]]
            return pose

    def _glide(self, waypoints: list[np.ndarray]) -> tuple[Glide, float]:
        """Plan a motion and say how much of it is over: some, when the arm moves that way already.

        Of motions that began earlier and farther back, and are here now, the one whose velocity is
        nearest to the arm's.
        """
        velocity = self.take_velocity()
        best = glide(self.planned, waypoints, self.speed), 0.0
        if np.linalg.norm(velocity) < MOVING_DEG_S:
            return best
        least = np.linalg.norm(velocity)
        for share in BEGUN_SHARES:
            way = waypoints[0] - self.planned
            start = waypoints[0] - way / (1.0 - minimum_jerk(share))
            plan = glide(start, waypoints, self.speed)
            begun_s = share * plan.durations_s[0]
            step = plan.at(begun_s + self.tick_s) - plan.at(begun_s)
            off = np.linalg.norm(step / self.tick_s - velocity)
            if off < least:
                best, least = (plan, begun_s), off
        return best

    def _sag(self, planned: np.ndarray) -> np.ndarray:
        world, scratch = self._world.world, self._scratch
        scratch.qpos[:] = world.data.qpos
        scratch.qpos[world.joint_qpos[:GRIPPER]] = np.deg2rad(planned[:GRIPPER])
        mujoco.mj_fwdPosition(world.model, scratch)
        mujoco.mj_fwdVelocity(world.model, scratch)
        sag = scratch.qfrc_bias[world.joint_qvel] * SAG_DEG_PER_NM
        sag[GRIPPER] = 0.0
        return sag


def at_height(spot_m: np.ndarray, height_m: float) -> np.ndarray:
    """Return the spot (3,) at another height."""
    return np.array([spot_m[0], spot_m[1], height_m])
