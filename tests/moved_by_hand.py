"""An arm without motors that a scripted person moves: for calibrating in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from firmware_bridge.calibration import JOINTS
from firmware_bridge.registers import TICKS_PER_TURN

# What the joints of the emulated arm can do, in ticks from one end to the other.
TRAVEL_TICKS = {
    "shoulder_pan": 2504,
    "shoulder_lift": 2276,
    "elbow_flex": 2204,
    "wrist_flex": 2162,
    "wrist_roll": 3704,
    "gripper": 1252,
}


class HandPlant:
    """Shafts that stand where `ticks` says: encoder ticks by joint, over the scale's end as well.

    `low` is the encoder's position at the low end of each joint.
    """

    def __init__(self, low: Mapping[str, int], share: float = 0.5) -> None:
        self.n_servos = len(JOINTS)
        self.load_nm = np.zeros(self.n_servos)
        self.stuck = np.zeros(self.n_servos, dtype=bool)
        self.low = dict(low)
        self.ticks: dict[str, float] = {}
        for joint in JOINTS:
            self.move(joint, share)

    def move(self, joint: str, share: float) -> None:
        """Put a joint somewhere in its range, 0 at the low end and 1 at the high one."""
        self.ticks[joint] = self.low[joint] + share * TRAVEL_TICKS[joint]

    def sweep(self, joints: list[str], to: float = 1.0, step: float = 0.05) -> Iterator[None]:
        """Move joints to both ends, a little at every turn, and back to the middle."""
        way = [*np.arange(0.5, 0.0, -step), *np.arange(0.0, to, step), to]
        for joint in joints:
            for share in (*way, *np.arange(to, 0.5, -step)):
                self.move(joint, share)
                yield

    def positions_deg(self) -> np.ndarray:
        turned = np.array([self.ticks[joint] for joint in JOINTS]) - TICKS_PER_TURN / 2
        return turned * 360.0 / TICKS_PER_TURN

    def velocities_deg_s(self) -> np.ndarray:
        return np.zeros(self.n_servos)

    def step(self, duty: np.ndarray, dt_s: float) -> None:
        pass
