"""Convert joint positions between the arm's frame and the checkpoint's.

A checkpoint learned from recordings in which some joints turned the other way or had their zero
elsewhere. With a sign and an offset per joint: model = sign * arm + offset. The loop converts the
state once on its way to the policy and the actions once on their way back; nothing else does.
"""

from __future__ import annotations

import numpy as np


class JointFrame:
    """Signs (each 1 or -1) and offsets, one per joint, in the joints' units."""

    def __init__(self, signs: tuple[float, ...], offsets: tuple[float, ...]) -> None:
        self._signs = np.asarray(signs, np.float64)
        self._offsets = np.asarray(offsets, np.float64)
        if self._signs.shape != self._offsets.shape:
            raise ValueError(
                f"{len(signs)} joint signs and {len(offsets)} offsets; one of each per joint"
            )
        if not np.all(np.abs(self._signs) == 1.0):
            raise ValueError(f"joint signs {list(signs)}; each must be 1 or -1")

    @property
    def n_joints(self) -> int:
        """Number of joints converted."""
        return len(self._signs)

    def model_from_arm(self, positions: np.ndarray) -> np.ndarray:
        """Convert (..., n_joints) arm positions to the checkpoint's frame, float64."""
        return self._signs * positions + self._offsets

    def arm_from_model(self, positions: np.ndarray) -> np.ndarray:
        """Convert (..., n_joints) checkpoint positions to the arm's frame, float64."""
        return self._signs * (positions - self._offsets)
