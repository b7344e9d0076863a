"""Where the joints must be for the fingertip to be somewhere: closed-form inverse kinematics.

Used to place cubes where the arm can pick them up and to script motions in tests and
demonstrations. The numbers are the frames of `so101.xml`, seen in the plane the arm moves in.
"""

from __future__ import annotations

import numpy as np

from sim.joints import JOINT_LIMITS_DEG

# Radius from the pan axis and height of the lift axis, then each link as (forward, up) at zero.
PAN_AXIS_X_M = 0.0388353
LIFT_AXIS_M = np.array([0.0303992, 0.1166])
UPPER_ARM_M = np.array([0.028, 0.11257])
LOWER_ARM_M = np.array([0.1349, 0.0052])
HAND_M = np.array([0.15923, -0.0079])


def joints_for_tip_deg(
    tip_m: np.ndarray, pitch_deg: float = 90.0, roll_deg: float = 0.0
) -> np.ndarray | None:
    """Return the five body joints in degrees that put the fingertip at `tip_m`, or None.

    `tip_m` (3,) is in the world frame, `pitch_deg` how far the gripper points below the
    horizontal (90 = straight down). None when it is out of reach or beyond a joint's range.
    """
    offset_m = np.asarray(tip_m[:2], dtype=np.float64) - [PAN_AXIS_X_M, 0.0]
    pan_deg = -np.rad2deg(np.arctan2(offset_m[1], offset_m[0]))
    hand_m = _turned_down(HAND_M, pitch_deg)
    wrist_m = np.array([np.hypot(*offset_m), tip_m[2]]) - hand_m - LIFT_AXIS_M
    upper_m, lower_m = np.hypot(*UPPER_ARM_M), np.hypot(*LOWER_ARM_M)
    distance_m = np.hypot(*wrist_m)
    inner_cos = (distance_m**2 - upper_m**2 - lower_m**2) / (2 * upper_m * lower_m)
    if not -1.0 <= inner_cos <= 1.0:
        return None
    # Elbow up: the forearm turns down from the upper arm's line by the exterior angle.
    bend_rad = np.arccos(inner_cos)
    rest_bend_rad = _elevation_rad(UPPER_ARM_M) - _elevation_rad(LOWER_ARM_M)
    upper_rad = _elevation_rad(wrist_m) + np.arctan2(
        lower_m * np.sin(bend_rad), upper_m + lower_m * np.cos(bend_rad)
    )
    lift_deg = np.rad2deg(_elevation_rad(UPPER_ARM_M) - upper_rad)
    elbow_deg = np.rad2deg(bend_rad - rest_bend_rad)
    joints_deg = np.array(
        [pan_deg, lift_deg, elbow_deg, pitch_deg - lift_deg - elbow_deg, roll_deg]
    )
    low_deg, high_deg = JOINT_LIMITS_DEG[:5].T
    if np.any(joints_deg < low_deg) or np.any(joints_deg > high_deg):
        return None
    return joints_deg


def _elevation_rad(vector_m: np.ndarray) -> float:
    return float(np.arctan2(vector_m[1], vector_m[0]))


def _turned_down(vector_m: np.ndarray, pitch_deg: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(pitch_deg)), np.sin(np.deg2rad(pitch_deg))
    return np.array([c * vector_m[0] + s * vector_m[1], -s * vector_m[0] + c * vector_m[1]])
