"""How far an arm is from the table, from itself and from its neighbour: one number per check.

Links are capsules (`edge.kinematics`), so a distance is that of two segments less two radii, and a
height that of a segment's lower end less its radius. Positive is free, negative is inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.arm_profile import ArmSeat, WorkspaceLimits
from edge.kinematics import CAPSULES, Frames

_NUMBERS = {
    name: [number for number, capsule in enumerate(CAPSULES) if capsule.name == name]
    for name in dict.fromkeys(capsule.name for capsule in CAPSULES)
}
_LINKS = ("forearm", "wrist")
_FINGERS = ("finger", "jaw")
_HAND = ("gripper", *_FINGERS)
# What the joints' ranges let collide: a hand cannot reach its own forearm, nor an upper arm its
# base (sampled over all ranges, they keep 30 mm).
_HAND_TO_BODY = (
    ("base", (*_LINKS, *_HAND)),
    ("shoulder", _HAND),
    ("upper arm", _HAND),
)
_FOLDED_LINKS = (("shoulder", _LINKS), ("upper arm", ("wrist",)))
_OVER_TABLE = ("upper arm", *_LINKS, *_HAND)

_Capsule = tuple[int, int]  # number of the arm, index into CAPSULES


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is measured: a capsule over the table, or a pair of capsules."""

    text: str  # what comes near what
    over_table: bool
    limit_m: float
    parts: tuple[_Capsule, ...]


class Clearances:
    """Measure every check for `n_poses` poses at once, without allocating."""

    def __init__(self, seats: Sequence[ArmSeat], limits: WorkspaceLimits, n_poses: int) -> None:
        self._made_of = seats, limits, n_poses
        self.frames = Frames(seats, n_poses)
        heights = [] if limits.table_m is None else _height_checks(seats, limits)
        pairs = _pair_checks(seats, limits)
        self.checks = (*heights, *pairs)
        self.limits_m = np.array([check.limit_m for check in self.checks])
        self.measured_m = np.zeros((n_poses, len(self.checks)))
        self._height_part = self.measured_m[:, : len(heights)]
        self._pair_part = self.measured_m[:, len(heights) :]
        self._set_up_heights([check.parts[0] for check in heights], limits.table_m or 0.0, n_poses)
        self._set_up_pairs([check.parts for check in pairs], n_poses)

    def __deepcopy__(self, memo: dict[int, object]) -> Clearances:
        """Be made anew: the arrays look into each other, which a plain copy would not do."""
        other = Clearances(*self._made_of)
        other.measured_m[:] = self.measured_m
        memo[id(self)] = other
        return other

    def measure(self, positions: np.ndarray) -> np.ndarray:
        """Return metres of clearance, (n_poses, n_checks), for (n_poses, n_joints) positions.

        The array is this object's own and overwritten by the next call.
        """
        self.frames.place(positions)
        points = self.frames.points
        np.take(points, self._z_index, out=self._z, mode="clip")
        np.minimum(self._z[0], self._z[1], out=self._height_part)
        np.subtract(self._height_part, self._below_m, out=self._height_part)
        self._measure_pairs(points)
        return self.measured_m

    def _set_up_heights(self, heights: list[tuple[int, int]], table_m: float, n_poses: int) -> None:
        self._z_index = np.array(
            [
                [
                    [
                        self.frames.point_index(pose, arm, capsule, end)[2]
                        for arm, capsule in heights
                    ]
                    for pose in range(n_poses)
                ]
                for end in (0, 1)
            ],
            np.intp,
        ).reshape(2, n_poses, len(heights))
        self._z = np.zeros(self._z_index.shape)
        self._below_m = np.array([table_m + CAPSULES[capsule].radius_m for _, capsule in heights])

    def _set_up_pairs(self, pairs: list[tuple[_Capsule, ...]], n_poses: int) -> None:
        shape = (n_poses, len(pairs), 3, 3)
        self._heads, self._tails = np.zeros(shape, np.intp), np.zeros(shape, np.intp)
        for pose in range(n_poses):
            for row, (one, other) in enumerate(pairs):
                p1, q1 = (self.frames.point_index(pose, *one, end) for end in (0, 1))
                p2, q2 = (self.frames.point_index(pose, *other, end) for end in (0, 1))
                self._heads[pose, row] = q1, q2, p1
                self._tails[pose, row] = p1, p2, p2
        self._apart_m = np.array(
            [CAPSULES[one[1]].radius_m + CAPSULES[other[1]].radius_m for one, other in pairs]
        )
        self._vectors, self._less = np.zeros(shape), np.zeros(shape)
        self._vectors_across = self._vectors.swapaxes(-1, -2)
        self._dots = np.zeros(shape)
        self._s, self._t, self._u = (np.zeros(shape[:2]) for _ in range(3))

    def _measure_pairs(self, points: np.ndarray) -> None:
        """Find the nearest points of two segments p1 + s d1 and p2 + t d2, s and t in 0..1."""
        np.take(points, self._heads, out=self._vectors, mode="clip")
        np.take(points, self._tails, out=self._less, mode="clip")
        np.subtract(self._vectors, self._less, out=self._vectors)  # d1, d2, r = p1 - p2
        np.matmul(self._vectors, self._vectors_across, out=self._dots)
        dots, s, t, u = self._dots, self._s, self._t, self._u
        d11, d12, d1r = dots[..., 0, 0], dots[..., 0, 1], dots[..., 0, 2]
        d22, d2r, rr = dots[..., 1, 1], dots[..., 1, 2], dots[..., 2, 2]
        # On the endless lines, then t for the s that is cut, then s for the t that is cut.
        np.multiply(d11, d22, out=u)
        np.multiply(d12, d12, out=s)
        np.subtract(u, s, out=u)
        np.maximum(u, 1e-12, out=u)  # parallel: any s will do
        np.multiply(d12, d2r, out=s)
        np.multiply(d1r, d22, out=t)
        np.subtract(s, t, out=s)
        np.divide(s, u, out=s)
        _cut(s)
        np.multiply(d12, s, out=t)
        np.add(t, d2r, out=t)
        np.divide(t, d22, out=t)
        _cut(t)
        np.multiply(d12, t, out=s)
        np.subtract(s, d1r, out=s)
        np.divide(s, d11, out=s)
        _cut(s)
        # |r + s d1 - t d2| squared, from the products at hand.
        np.multiply(s, d11, out=u)
        np.add(u, d1r, out=u)
        np.add(u, d1r, out=u)
        np.multiply(u, s, out=u)
        np.multiply(s, d12, out=s)
        np.add(s, d2r, out=s)
        np.multiply(s, -2.0, out=s)
        np.add(u, rr, out=u)
        np.multiply(t, d22, out=self._pair_part)
        np.add(s, self._pair_part, out=s)
        np.multiply(s, t, out=s)
        np.add(u, s, out=u)
        np.maximum(u, 0.0, out=u)
        np.sqrt(u, out=u)
        np.subtract(u, self._apart_m, out=self._pair_part)


def _cut(values: np.ndarray) -> None:
    np.maximum(values, 0.0, out=values)
    np.minimum(values, 1.0, out=values)


def _height_checks(seats: Sequence[ArmSeat], limits: WorkspaceLimits) -> list[Check]:
    return [
        Check(
            text=_full_name(seats, (arm, number)),
            over_table=True,
            limit_m=limits.fingers_over_table_m if name in _FINGERS else limits.links_over_table_m,
            parts=((arm, number),),
        )
        for arm in range(len(seats))
        for name in _OVER_TABLE
        for number in _NUMBERS[name]
    ]


def _pair_checks(seats: Sequence[ArmSeat], limits: WorkspaceLimits) -> list[Check]:
    """List pairs of capsules: within each arm, and all of one arm with all of another."""
    own = [
        ((arm, one), (arm, other), limit_m)
        for arm in range(len(seats))
        for table, limit_m in (
            (_HAND_TO_BODY, limits.hand_to_body_m),
            (_FOLDED_LINKS, limits.folded_links_m),
        )
        for first, others in table
        for one in _NUMBERS[first]
        for name in others
        for other in _NUMBERS[name]
    ]
    across = [
        ((arm, one), (neighbour, other), limits.between_arms_m)
        for arm in range(len(seats))
        for neighbour in range(arm + 1, len(seats))
        for one in range(len(CAPSULES))
        for other in range(len(CAPSULES))
        if not CAPSULES[one].name == CAPSULES[other].name == "base"
    ]
    return [
        Check(
            text=f"{_full_name(seats, other)} to the {_full_name(seats, one)}",
            over_table=False,
            limit_m=limit_m,
            parts=(one, other),
        )
        for one, other, limit_m in own + across
    ]


def _full_name(seats: Sequence[ArmSeat], part: _Capsule) -> str:
    arm, capsule = part
    name = CAPSULES[capsule].name
    return name if len(seats) == 1 else f"{seats[arm].name} {name}"
