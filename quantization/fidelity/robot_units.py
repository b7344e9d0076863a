"""What actions mean at the arm: degrees, percent of the gripper, millimetres at the fingertip.

Actions are in the checkpoint's joint frame, which may turn joints the other way and have its zeros
elsewhere; `edge.kinematics` knows the arm's own. Signs and offsets between them are those of the
arm profile, which the robot converts with too.
"""

from __future__ import annotations

import numpy as np

from edge.arm_profile import ArmProfile
from edge.joint_frame import JointFrame
from edge.kinematics import N_JOINTS, Frames
from edge.normalization import RobotTag

DEGREES, PERCENT, AS_TRAINED = "deg", "%", "as trained"
_MM_FROM_M = 1e3
_GRIPPER = "gripper"
_LEAST_RANGE = 1e-9
# Of the gripper's range, around its middle: within, it counts as what it was before.
_UNDECIDED_SHARE = 0.2


class RobotUnits:
    """The joints that a norm tag names, on the arm of a profile."""

    def __init__(self, tag: RobotTag, arm: ArmProfile) -> None:
        """Tips are known where tag and profile have the same joints, those of SO-100/101 arms."""
        self.names = tag.action_names
        ends = tag.action.unnormalize(np.array([-1.0, 1.0])[:, None] * np.ones(tag.action.dim))
        # (dim,) what the checkpoint can say; a joint that never moved has no error either.
        self.ranges = np.maximum(np.abs(ends[1] - ends[0]).astype(np.float64), _LEAST_RANGE)
        fits = tag.action.dim == len(arm.joints) == N_JOINTS * len(arm.arms)
        self._arms = arm.arms if fits else ()
        self._frame = JointFrame(arm.signs, arm.offsets_deg) if fits else None
        if fits:
            last = N_JOINTS - 1
            grippers = [dim for dim in range(tag.action.dim) if dim % N_JOINTS == last]
        else:
            grippers = [dim for dim, name in enumerate(self.names) if _GRIPPER in name]
        self.grippers = tuple(grippers)
        self.body = tuple(dim for dim in range(tag.action.dim) if dim not in grippers)
        self._middle = ends.mean(axis=0)

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each action dim."""
        if self._frame is None:
            return (AS_TRAINED,) * len(self.names)
        return tuple(PERCENT if dim in self.grippers else DEGREES for dim in range(len(self.names)))

    @property
    def knows_tips(self) -> bool:
        """Whether `tips_mm` can be asked."""
        return self._frame is not None

    def tips_mm(self, actions: np.ndarray) -> np.ndarray:
        """Return where the fingertips are, (n, arms, 3), for actions (n, dim) of the checkpoint."""
        frames = Frames(self._arms, len(actions))
        frames.place(self._frame.arm_from_model(np.asarray(actions, np.float64)))
        tips_m = [
            [frames.tip_m(pose, arm) for arm in range(len(self._arms))]
            for pose in range(len(actions))
        ]
        return np.array(tips_m).reshape(len(actions), len(self._arms), 3) * _MM_FROM_M

    def tip_distances_mm(self, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return how far apart the fingertips are, (n, arms), for two times (n, dim) actions."""
        return np.linalg.norm(self.tips_mm(actions) - self.tips_mm(others), axis=-1)

    def open_grippers(self, actions: np.ndarray) -> np.ndarray:
        """Say for each action of a chunk (n, dim) whether each gripper is open, (n, grippers).

        It takes a share of its range to change sides, so that wavering about the middle is none.
        """
        dims = list(self.grippers)
        offset = np.asarray(actions, np.float64)[:, dims] - self._middle[dims]
        decided = np.abs(offset) > self.ranges[dims] * _UNDECIDED_SHARE / 2
        sides = offset > 0
        for step in range(1, len(sides)):
            sides[step] = np.where(decided[step], sides[step], sides[step - 1])
        return sides
