"""Smooth joint motions: minimum-jerk glides through waypoints, as quick as limits allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of a minimum-jerk move of length 1 in time 1.
PEAK_VELOCITY = 1.875
PEAK_ACCELERATION = 5.7735

# Below the gate's 90 deg/s, 600 deg/s2 and 12 degrees of lead: back-EMF costs a degree of lead per
# 12 deg/s, and gravity up to six. The gripper's 4.5 % of lead are for 45 %/s.
MAX_VELOCITY = np.array([62.0, 64.0, 55.0, 55.0, 52.0, 30.0])
MAX_ACCELERATION = np.array([280.0, 280.0, 280.0, 280.0, 300.0, 200.0])
SHORTEST_S = 0.2
# Of the shorter of two moves, how long the second begins before the first has ended.
OVERLAP = 0.6


def minimum_jerk(share: np.ndarray | float) -> np.ndarray | float:
    """Return the way done, 0..1, after a share of the time, which is clipped to 0..1."""
    s = np.clip(share, 0.0, 1.0)
    return s * s * s * (10.0 + s * (6.0 * s - 15.0))


@dataclass(frozen=True, slots=True)
class Glide:
    """A motion that begins at `start` (6,) at rest and ends at its last waypoint at rest."""

    start: np.ndarray
    ways: np.ndarray  # (moves, 6), one minimum-jerk displacement each
    begins_s: np.ndarray  # (moves,)
    durations_s: np.ndarray  # (moves,)

    @property
    def duration_s(self) -> float:
        """When it comes to rest."""
        return float((self.begins_s + self.durations_s).max())

    def at(self, t_s: float) -> np.ndarray:
        """Return where it is at a time after the beginning, (6,)."""
        done = minimum_jerk((t_s - self.begins_s) / self.durations_s)
        return self.start + done @ self.ways


def glide(start: np.ndarray, waypoints: Sequence[np.ndarray], speed: float = 1.0) -> Glide:
    """Plan a motion from `start` through `waypoints`, (6,) degrees and gripper percent each.

    It rounds off the inner ones. `speed` above 0, up to 1, is the share of the limits that is used.
    """
    points = np.array([start, *waypoints])
    ways = np.diff(points, axis=0)
    durations_s = np.array([_duration_s(way, speed) for way in ways])
    begins_s = np.zeros(len(ways))
    for i in range(1, len(ways)):
        overlap_s = OVERLAP * min(durations_s[i - 1], durations_s[i])
        begins_s[i] = begins_s[i - 1] + durations_s[i - 1] - overlap_s
    plan = Glide(np.array(start), ways, begins_s, durations_s)
    # Where moves overlap their speeds add up.
    stretch = max(1.0, _excess(plan, speed))
    return Glide(plan.start, ways, begins_s * stretch, durations_s * stretch)


def _duration_s(way: np.ndarray, speed: float) -> float:
    size = np.abs(way)
    by_velocity_s = PEAK_VELOCITY * size / (MAX_VELOCITY * speed)
    by_acceleration_s = np.sqrt(PEAK_ACCELERATION * size / (MAX_ACCELERATION * speed))
    return float(max(SHORTEST_S, by_velocity_s.max(), by_acceleration_s.max()))


def _excess(plan: Glide, speed: float) -> float:
    times_s = np.linspace(0.0, plan.duration_s, 100)
    points = np.array([plan.at(t_s) for t_s in times_s])
    step_s = times_s[1]
    velocity = np.abs(np.diff(points, axis=0)) / step_s
    acceleration = np.abs(np.diff(points, 2, axis=0)) / step_s**2
    over_velocity = float((velocity / (MAX_VELOCITY * speed)).max())
    over_acceleration = float((acceleration / (MAX_ACCELERATION * speed)).max())
    return max(over_velocity, math.sqrt(over_acceleration))
