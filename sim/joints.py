"""The joint ranges of the arm in bus order, and the gripper's percent scale.

A body joint's LeRobot degrees are the joint angle of `so101.xml` one to one. The gripper's
0..100 % is its range, linear.
"""

from __future__ import annotations

import numpy as np

from firmware_bridge.calibration import GRIPPER as GRIPPER_NAME
from firmware_bridge.calibration import JOINTS

N_JOINTS = len(JOINTS)
GRIPPER = JOINTS.index(GRIPPER_NAME)

# Joint ranges of the SO-ARM100 "new calibration" description, which are those of so101.xml.
JOINT_LIMITS_DEG = np.rad2deg(
    [
        [-1.91986, 1.91986],
        [-1.74533, 1.74533],
        [-1.69, 1.69],
        [-1.65806, 1.65806],
        [-2.74385, 2.84121],
        [-0.17453, 1.74533],
    ]
)


def positions_from_joints_deg(joints_deg: np.ndarray) -> np.ndarray:
    """Turn six joint angles into LeRobot positions: five in degrees, the gripper in percent."""
    low_deg, high_deg = JOINT_LIMITS_DEG[GRIPPER]
    positions = np.array(joints_deg, dtype=np.float64)
    positions[GRIPPER] = 100.0 * (positions[GRIPPER] - low_deg) / (high_deg - low_deg)
    return positions


def joints_deg_from_positions(positions: np.ndarray) -> np.ndarray:
    """Turn LeRobot positions, (6,) degrees and gripper percent, into six joint angles."""
    low_deg, high_deg = JOINT_LIMITS_DEG[GRIPPER]
    joints_deg = np.array(positions, dtype=np.float64)
    joints_deg[GRIPPER] = low_deg + joints_deg[GRIPPER] / 100.0 * (high_deg - low_deg)
    return joints_deg
