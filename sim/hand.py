"""Where the joints must be for the hand to grip, touch or push at a spot, from above.

`sim.reach` puts the fixed fingertip somewhere; the hand turns about an axis beside it, so a spot
between the jaws moves when the wrist rolls. Here a spot is given by how far it lies from that axis
towards the moving jaw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.layout import PICK_PITCH_DEG
from sim.reach import HAND_M, PAN_AXIS_X_M, joints_for_tip_deg

# Of the fixed fingertip from the roll axis, and the angle between hand and forearm in so101.xml.
TIP_FROM_AXIS_M = HAND_M[1]
HAND_TWIST_DEG = 2.8
# How far below the horizontal the hand may point, best first.
PITCHES_DEG = (PICK_PITCH_DEG, 75.0, 85.0, 70.0, 65.0, 60.0, 50.0)


class Unreachable(Exception):  # noqa: N818 - a place, not a mistake
    """There is no pose of the hand at a spot."""


@dataclass(frozen=True, slots=True)
class Hand:
    """How the hand is held at a spot: rolled, with the spot beside its axis, and open so far."""

    roll_deg: float
    beside_m: float
    percent: float


def pose_of_hand(
    hand: Hand, limits_deg: np.ndarray, spot_m: np.ndarray, *also_m: np.ndarray
) -> np.ndarray:
    """Return LeRobot positions (6,) with the hand at `spot_m` (3,), as steep as best there.

    Its steepness must do for the spots `also_m` too, within `limits_deg` (2, 5). Raises
    Unreachable.
    """
    for pitch_deg in PITCHES_DEG:
        poses = [
            joints_for_hand_deg(aim_m, hand.roll_deg, hand.beside_m, pitch_deg)
            for aim_m in (spot_m, *also_m)
        ]
        if all(pose is not None and _is_within(pose, limits_deg) for pose in poses):
            return np.append(poses[0], hand.percent)
    raise Unreachable(f"the hand cannot be held over {spot_m}")


def joints_for_hand_deg(
    spot_m: np.ndarray, roll_deg: float, beside_m: float, pitch_deg: float = PICK_PITCH_DEG
) -> np.ndarray | None:
    """Return five body joints in degrees for a hand above `spot_m` (3,), or None out of reach.

    The spot is at the height of the fingertips, `beside_m` from the roll axis towards the moving
    jaw; `roll_deg` is the joint's.
    """
    spot_m = np.asarray(spot_m, dtype=np.float64)
    pitch_rad = np.deg2rad(pitch_deg)
    axis_m = spot_m
    for _ in range(3):  # the bearing is that of the axis, which depends on it a little
        bearing_rad = _bearing_rad(axis_m)
        opening_rad = bearing_rad + np.deg2rad(roll_deg - HAND_TWIST_DEG)
        axis_m = spot_m - beside_m * _direction(opening_rad)
    tip_m = axis_m + TIP_FROM_AXIS_M * np.sin(pitch_rad) * _direction(_bearing_rad(axis_m))
    tip_m[2] += TIP_FROM_AXIS_M * np.cos(pitch_rad)
    return joints_for_tip_deg(tip_m, pitch_deg, roll_deg)


def _is_within(joints_deg: np.ndarray, limits_deg: np.ndarray) -> bool:
    return bool((joints_deg > limits_deg[0]).all() and (joints_deg < limits_deg[1]).all())


def _bearing_rad(spot_m: np.ndarray) -> float:
    return float(np.arctan2(spot_m[1], spot_m[0] - PAN_AXIS_X_M))


def _direction(angle_rad: float) -> np.ndarray:
    return np.array([np.cos(angle_rad), np.sin(angle_rad), 0.0])
