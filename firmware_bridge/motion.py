"""A straight line from one pose to another, with all joints starting and arriving together."""

from __future__ import annotations

import math

import numpy as np

# Rounding of positions, not a way to go.
NO_WAY = 1e-9


class StraightMotion:
    """A line in joint space, run through with a bounded speed and acceleration of every joint.

    All arrays are (n_joints,): `start` and `target` positions, `speeds` and `accelerations` above
    0, in the same units per second and per second squared.
    """

    def __init__(
        self,
        start: np.ndarray,
        target: np.ndarray,
        speeds: np.ndarray,
        accelerations: np.ndarray,
    ) -> None:
        self._start = np.asarray(start, dtype=np.float64)
        self._way = np.asarray(target, dtype=np.float64) - self._start
        far = np.abs(self._way)
        moving = far > NO_WAY
        if not moving.any():
            self._rise_s = self._cruise_s = 0.0
            return
        # The share of the way per second, and per second squared, that every joint can do.
        speed = float(np.min(np.asarray(speeds)[moving] / far[moving]))
        acceleration = float(np.min(np.asarray(accelerations)[moving] / far[moving]))
        speed = min(speed, math.sqrt(acceleration))
        self._speed, self._acceleration = speed, acceleration
        self._rise_s = speed / acceleration
        self._cruise_s = 1.0 / speed - self._rise_s

    @property
    def duration_s(self) -> float:
        """How long the motion takes."""
        return 2.0 * self._rise_s + self._cruise_s

    def at(self, t_s: float) -> np.ndarray:
        """Return the positions `t_s` after the start, (n_joints,); the target from the end on."""
        return self._start + self._way * self._share(t_s)

    def _share(self, t_s: float) -> float:
        left_s = self.duration_s - t_s
        if left_s <= 0.0:
            return 1.0
        if t_s <= 0.0:
            return 0.0
        if t_s < self._rise_s:
            return 0.5 * self._acceleration * t_s**2
        if left_s < self._rise_s:
            return 1.0 - 0.5 * self._acceleration * left_s**2
        return self._speed * (t_s - 0.5 * self._rise_s)
