"""A line on the desk along which closed fingertips push a cube, turned the same way all along."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sim.hand import Hand, Unreachable
from sim.joints import GRIPPER
from sim.motion import PEAK_VELOCITY, minimum_jerk
from sim.mover import BEGUN_SHARES, MOVING_DEG_S, THERE, Mover, at_height

PUSH_M_S = 0.11  # at its quickest
PLACES = 6
STEP_M = 0.005


class PushLine:
    """From where the fingertips come down to where the cube shall be."""

    def __init__(
        self,
        mover: Mover,
        hand: Hand,
        begin_m: np.ndarray,
        end_m: np.ndarray,
        over_height_m: float,
    ) -> None:
        """The way of a `hand` from one spot (3,) to another. Raises Unreachable."""
        self.begin_m, self.end_m = begin_m, end_m
        self.over = mover.pose(hand, at_height(begin_m, over_height_m), begin_m, end_m)
        self.down = mover.pose(hand, begin_m, end_m)
        self._mover = mover
        self._hand = hand

    def place(self, run_up_m: float) -> np.ndarray | None:
        """Return where on the run-up the hand is, (3,); None when it is elsewhere."""
        way_m = self.end_m - self.begin_m
        for share in np.linspace(0.0, run_up_m / np.linalg.norm(way_m), PLACES)[1:]:
            spot_m = self.begin_m + share * way_m
            with contextlib.suppress(Unreachable):  # of a hand that is elsewhere
                pose = self._mover.pose(self._turned(), spot_m, self.begin_m, self.end_m)
                if (np.abs(self._mover.planned - pose)[:GRIPPER] < THERE).all():
                    return spot_m
        return None

    def draw(self, begin_m: np.ndarray, end_m: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the goals of the fingertips' way from one place on the line to another."""
        mover = self._mover
        mover.looseness = 0.0
        speed_m_s = PUSH_M_S * mover.speed
        begun = self._share_begun(begin_m, end_m, speed_m_s)
        begin_m = end_m - (end_m - begin_m) / (1.0 - minimum_jerk(begun))
        duration_s = PEAK_VELOCITY * float(np.linalg.norm(end_m - begin_m)) / speed_m_s
        for tick in range(1, round((1.0 - begun) * duration_s / mover.tick_s) + 1):
            share = minimum_jerk(begun + tick * mover.tick_s / duration_s)
            spot_m = begin_m + share * (end_m - begin_m)
            yield mover.goal(mover.pose(self._turned(), spot_m, begin_m, end_m))

    def _turned(self) -> Hand:
        """Return the hand that keeps its direction on the desk while the pan turns under it."""
        roll_deg = self._hand.roll_deg + self._mover.planned[0] - self.down[0]
        return replace(self._hand, roll_deg=roll_deg)

    def _share_begun(self, begin_m: np.ndarray, end_m: np.ndarray, speed_m_s: float) -> float:
        """Return how much of the time along a line is over for an arm that moves along it."""
        velocity = self._mover.take_velocity()
        if np.linalg.norm(velocity) < MOVING_DEG_S:
            return 0.0
        ahead_m = begin_m + (end_m - begin_m) * STEP_M / np.linalg.norm(end_m - begin_m)
        here, ahead = (
            self._mover.pose(self._turned(), spot_m, end_m) for spot_m in (begin_m, ahead_m)
        )
        step = ahead - here
        along_m_s = STEP_M * float(velocity @ step) / float(step @ step)
        shares = np.array([0.0, *BEGUN_SHARES])
        speeds_m_s = 30.0 * (shares * (1.0 - shares)) ** 2 * speed_m_s / PEAK_VELOCITY
        return float(shares[np.argmin(np.abs(speeds_m_s - along_m_s))])
