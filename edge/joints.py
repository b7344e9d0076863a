"""What the loop needs of an arm: three methods, positions in joint units, errors as one type."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge.errors import EdgeError


class JointIoError(EdgeError):
    """The bus did not do as it was asked; the text is one line for a user."""


class JointReading(Protocol):
    """One measurement of every joint."""

    @property
    def positions(self) -> np.ndarray:
        """(n_joints,) float64, degrees; the gripper in percent of opening."""
        ...

    @property
    def t_s(self) -> float:
        """When it was measured, on time.monotonic."""
        ...


class JointIO(Protocol):
    """An armed arm, real or not."""

    def read(self) -> JointReading:
        """Measure every joint; blocks for one bus cycle, raises JointIoError."""
        ...

    def write(self, positions: np.ndarray) -> None:
        """Send one goal per joint, (n_joints,); raises JointIoError."""
        ...

    def soft_stop(self) -> None:
        """Let the arm down without dropping it, then torque off; blocks for seconds."""
        ...
