"""Where the links of an SO-101 are: its chain of frames, and the capsules that stand for links.

The chain is the one of SO-ARM100's SO-101 description (new calibration): every joint turns about
its local z, and LeRobot's degrees are the joint angles one to one. The SO-100's links are the same
to 3 mm (MuJoCo Menagerie's model), which is less than printing and calibration leave open.

Everything is computed for several poses and several arms at once, into arrays made beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.arm_profile import ArmSeat

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
N_JOINTS = len(JOINTS)

# The gripper's 0..100 percent are its joint's range.
GRIPPER_CLOSED_RAD, GRIPPER_OPEN_RAD = -0.174533, 1.745329

# Frame of each joint's link in the link before it: position in metres, quaternion w x y z.
_LINKS = (
    ((0.0388353, 0.0, 0.0624), (0.0, 0.0, -1.0, 0.0)),
    ((-0.0303992, -0.0182778, -0.0542), (0.5, -0.5, -0.5, -0.5)),
    ((-0.11257, -0.028, 0.0), (0.70711, 0.0, 0.0, 0.70711)),
    ((-0.1349, 0.0052, 0.0), (0.70711, 0.0, 0.0, -0.70711)),
    ((0.0, -0.0611, 0.0181), (0.01721, -0.01721, 0.70690, 0.70690)),
    ((0.0202, 0.0188, -0.0234), (0.70711, 0.70711, 0.0, 0.0)),
)
TIP_IN_GRIPPER_M = (-0.0079, -0.000218, -0.0981274)
GRIPPER_LINK = 4

BASE = -1


@dataclass(frozen=True, slots=True)
class Capsule:
    """All points within `radius_m` of a segment that is fixed in a link's frame."""

    name: str
    link: int  # index into JOINTS of the joint that moves it, or BASE
    start_m: tuple[float, float, float]
    end_m: tuple[float, float, float]
    radius_m: float


# As thick as the SO-101's parts are in the plane in which the arm bends, where links meet; across
# it the forearm sticks out by 6 mm. A wrist camera is not among them: every one sits elsewhere.
CAPSULES = (
    Capsule("base", BASE, (-0.024, 0.0, 0.026), (0.032, 0.0, 0.026), 0.030),
    Capsule("base", BASE, (-0.036, 0.036, 0.0), (0.040, 0.036, 0.0), 0.015),
    Capsule("base", BASE, (-0.036, -0.036, 0.0), (0.040, -0.036, 0.0), 0.015),
    Capsule("shoulder", 0, (-0.028, 0.0, -0.018), (-0.028, 0.0, -0.042), 0.020),
    Capsule("upper arm", 1, (-0.008, -0.002, 0.0185), (-0.113, -0.012, 0.0185), 0.019),
    Capsule("forearm", 2, (-0.008, 0.003, 0.0185), (-0.130, 0.005, 0.0185), 0.016),
    Capsule("wrist", 3, (0.0, -0.014, 0.022), (0.0, -0.046, 0.026), 0.018),
    Capsule("gripper", 4, (-0.006, 0.0, -0.020), (0.014, 0.0, -0.020), 0.020),
    Capsule("finger", 4, (-0.016, 0.0, -0.045), (-0.0128, 0.0, -0.092), 0.012),
    Capsule("jaw", 5, (0.0, -0.012, 0.020), (0.0, -0.026, 0.020), 0.018),
    Capsule("jaw", 5, (-0.002, -0.038, 0.01875), (-0.0072, -0.070, 0.01875), 0.012),
)


def angles_from_positions() -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, offset), (6,) each: joint angle in radians = position * scale + offset."""
    scale = np.full(N_JOINTS, math.radians(1.0))
    offset = np.zeros(N_JOINTS)
    scale[-1] = (GRIPPER_OPEN_RAD - GRIPPER_CLOSED_RAD) / 100.0
    offset[-1] = GRIPPER_CLOSED_RAD
    return scale, offset


class Frames:
    """Link frames and capsule ends of `n_poses` poses of one or more arms, in one world frame.

    `links` is (n_poses, n_arms, 6, 4, 4); `points` (n_points,) is flat, all ends of all capsules,
    and `point_index` says where in it one of them is. Both are overwritten by `place`.
    """

    def __init__(self, seats: Sequence[ArmSeat], n_poses: int) -> None:
        n_arms, slots = len(seats), _slots()
        n_slots = max(len(link) for link in slots)
        scale, offset = angles_from_positions()
        self._scale, self._offset = np.tile(scale, n_arms), np.tile(offset, n_arms)
        shape = (n_poses, n_arms, N_JOINTS)
        self._angles = np.zeros((n_poses, n_arms * N_JOINTS))
        angles = self._angles.reshape(shape)
        self._cos, self._sin = np.zeros(shape), np.zeros(shape)
        self._angles_shaped = angles
        self._cos_wide, self._sin_wide = self._cos[..., None, None], self._sin[..., None, None]
        self._fixed, self._by_cos, self._by_sin = _turning_frames(seats)
        self._own = np.zeros((*shape, 4, 4))  # of each link in the link before it
        self._scratch = np.zeros((*shape, 4, 4))
        self.links = np.zeros((*shape, 4, 4))
        self._steps = [
            (self.links[:, :, joint - 1], self._own[:, :, joint], self.links[:, :, joint])
            for joint in range(1, N_JOINTS)
        ]
        self._ends = np.zeros((N_JOINTS, 4, n_slots))
        self._ends[:, 3] = 1.0
        n_moving = n_poses * n_arms * N_JOINTS * 4 * n_slots
        base_ends = _base_ends(seats)
        self.points = np.concatenate([np.zeros(n_moving), base_ends.ravel()])
        self._moved = self.points[:n_moving].reshape((*shape, 4, n_slots))
        self._index = np.zeros((n_poses, n_arms, len(CAPSULES), 2, 3), np.intp)
        where = np.arange(n_moving).reshape((*shape, 4, n_slots))
        still = n_moving + np.arange(base_ends.size).reshape(base_ends.shape)
        bases = [number for number, capsule in enumerate(CAPSULES) if capsule.link == BASE]
        for number, capsule in enumerate(CAPSULES):
            for end, point_m in enumerate((capsule.start_m, capsule.end_m)):
                if capsule.link == BASE:
                    self._index[:, :, number, end] = still[None, :, bases.index(number), end]
                    continue
                slot = slots[capsule.link].index((number, end))
                self._ends[capsule.link, :3, slot] = point_m
                self._index[:, :, number, end] = where[:, :, capsule.link, :3, slot]

    def point_index(self, pose: int, arm: int, capsule: int, end: int) -> np.ndarray:
        """Return the indices (3,) of x, y, z in `points` of one end of CAPSULES[capsule]."""
        return self._index[pose, arm, capsule, end]

    def place(self, positions: np.ndarray) -> None:
        """Compute frames and points of positions, (n_poses, n_arms * 6) degrees and percent."""
        np.multiply(positions, self._scale, out=self._angles)
        np.add(self._angles, self._offset, out=self._angles)
        np.cos(self._angles_shaped, out=self._cos)
        np.sin(self._angles_shaped, out=self._sin)
        np.multiply(self._by_cos, self._cos_wide, out=self._own)
        np.multiply(self._by_sin, self._sin_wide, out=self._scratch)
        np.add(self._own, self._scratch, out=self._own)
        np.add(self._own, self._fixed, out=self._own)
        np.copyto(self.links[:, :, 0], self._own[:, :, 0])
        for before, own, link in self._steps:
            np.matmul(before, own, out=link)
        np.matmul(self.links, self._ends, out=self._moved)

    def tip_m(self, pose: int = 0, arm: int = 0) -> np.ndarray:
        """Return the fingertip (3,) of a pose that was placed, in the world frame."""
        return (self.links[pose, arm, GRIPPER_LINK] @ (*TIP_IN_GRIPPER_M, 1.0))[:3]


def _slots() -> list[list[tuple[int, int]]]:
    """List the (capsule, end) that each link carries; links carry no more than two capsules."""
    slots: list[list[tuple[int, int]]] = [[] for _ in JOINTS]
    for number, capsule in enumerate(CAPSULES):
        if capsule.link != BASE:
            slots[capsule.link] += [(number, 0), (number, 1)]
    return slots


def _turning_frames(seats: Sequence[ArmSeat]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what is fixed, and what goes with cosine and sine of the angle: (n_arms, 6, 4, 4)."""
    chain = np.array([_frame(position_m, quaternion) for position_m, quaternion in _LINKS])
    arms = np.tile(chain, (len(seats), 1, 1, 1))
    for arm, seat in enumerate(seats):
        arms[arm, 0] = _base_frame(seat) @ arms[arm, 0]
    stays, turns, crosses = np.diag([0.0, 0.0, 1.0, 1.0]), np.zeros((4, 4)), np.zeros((4, 4))
    turns[0, 0] = turns[1, 1] = 1.0
    crosses[0, 1], crosses[1, 0] = -1.0, 1.0
    return arms @ stays, arms @ turns, arms @ crosses


def _base_ends(seats: Sequence[ArmSeat]) -> np.ndarray:
    """Return the ends of the capsules that never move, (n_arms, n_capsules, 2, 3)."""
    ends = np.array(
        [
            [(*capsule.start_m, 1.0), (*capsule.end_m, 1.0)]
            for capsule in CAPSULES
            if capsule.link == BASE
        ]
    )
    return np.array([(ends @ _base_frame(seat).T)[..., :3] for seat in seats])


def _base_frame(seat: ArmSeat) -> np.ndarray:
    half_rad = math.radians(seat.turned_deg) / 2.0
    return _frame(seat.base_m, (math.cos(half_rad), 0.0, 0.0, math.sin(half_rad)))


def _frame(position_m: Sequence[float], quaternion: Sequence[float]) -> np.ndarray:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    frame = np.eye(4)
    frame[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    frame[:3, 3] = position_m
    return frame
