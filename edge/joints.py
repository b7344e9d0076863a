"""What the loop needs of an arm: three methods, positions in joint units, errors as one type."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge.errors import EdgeError


class JointIoError(EdgeError):
    """The bus did not do as it was asked; the text is one line for a user."""


class StopRequested(EdgeError):  # noqa: N818 - nothing went wrong
    """Somebody, or the watchdog, wants the arm let down now; the text says who and why."""


class JointReading(Protocol):
    """One measurement of every joint; arrays are (n_joints,) in the order of the arm profile."""

    @property
    def t_s(self) -> float:
        """When it was measured, on time.monotonic."""
        ...

    @property
    def positions(self) -> np.ndarray:
        """Degrees; the gripper in percent of opening."""
        ...

    @property
    def velocities(self) -> np.ndarray:
        """The same per second."""
        ...

    @property
    def loads(self) -> np.ndarray:
        """Motor duty with its sign, -1..1."""
        ...

    @property
    def currents_ma(self) -> np.ndarray:
        """Motor current; its sign is the servo's and not relied upon."""
        ...

    @property
    def voltages_v(self) -> np.ndarray:
        """Supply voltage at each servo."""
        ...

    @property
    def temperatures_c(self) -> np.ndarray:
        """Of each servo's circuit board."""
        ...

    @property
    def status(self) -> np.ndarray:
        """Fault bits of each servo's reply; see `edge.servo_health`."""
        ...


class JointIO(Protocol):
    """An armed arm, real or not."""

    def read(self, deadline_s: float | None = None) -> JointReading:
        """Measure every joint; blocks until `deadline_s` on time.monotonic at the longest.

        None is one bus cycle from now. Raises JointIoError or StopRequested.
        """
        ...

    def write(self, positions: np.ndarray) -> None:
        """Send one goal per joint, (n_joints,); raises JointIoError."""
        ...

    def soft_stop(self) -> None:
        """Let the arm down without dropping it, then torque off; blocks for seconds."""
        ...
