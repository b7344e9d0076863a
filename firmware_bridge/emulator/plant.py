"""What the emulated servos turn: the interface to a physical world, and the default one.

The emulator asks a plant for shaft angles and tells it the PWM duty of every motor. A simulator
that moves an arm implements `Plant`; `RotorPlant` is a row of bare geared motors for when nothing
is attached.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

# STS3215 at 12 V, seen at the output shaft: stall torque and no-load speed of the data sheet,
# reflected rotor inertia and Coulomb friction of the SO-ARM100 joint properties.
STALL_TORQUE_NM = 2.94
NO_LOAD_SPEED_DEG_S = 270.0
ROTOR_INERTIA_KG_M2 = 0.028
COULOMB_FRICTION_NM = 0.052


class Plant(Protocol):
    """The mechanical side of a row of servos, in bus order."""

    n_servos: int

    def positions_deg(self) -> np.ndarray:
        """Return output shaft angles, (n_servos,) float64; 0 is encoder tick 2048, + more ticks."""
        ...

    def velocities_deg_s(self) -> np.ndarray:
        """Return output shaft speeds, (n_servos,) float64."""
        ...

    def step(self, duty: np.ndarray, dt_s: float) -> None:
        """Advance by `dt_s` under `duty`, (n_servos,) in -1..1 of the supply voltage.

        The duty of a servo whose torque is off is 0.
        """
        ...


class RotorPlant:
    """A geared DC motor with inertia, back-EMF and dry friction per servo, nothing attached.

    `load_nm` (n,) is an external torque on each shaft and may be changed between steps;
    `stops_deg` (n, 2) are hard end stops.
    """

    def __init__(
        self,
        n_servos: int = 6,
        *,
        start_deg: np.ndarray | None = None,
        stops_deg: np.ndarray | None = None,
        inertia_kg_m2: float = ROTOR_INERTIA_KG_M2,
        friction_nm: float = COULOMB_FRICTION_NM,
    ) -> None:
        self.n_servos = n_servos
        self.load_nm = np.zeros(n_servos)
        self.stops_deg = (
            np.tile([-np.inf, np.inf], (n_servos, 1))
            if stops_deg is None
            else np.asarray(stops_deg, dtype=np.float64).reshape(n_servos, 2)
        )
        self._inertia_kg_m2 = inertia_kg_m2
        self._friction_nm = friction_nm
        self._damping_nm_s_rad = STALL_TORQUE_NM / np.deg2rad(NO_LOAD_SPEED_DEG_S)
        start = np.zeros(n_servos) if start_deg is None else np.asarray(start_deg, dtype=np.float64)
        self._angle_rad = np.deg2rad(np.broadcast_to(start, (n_servos,)).astype(np.float64))
        self._speed_rad_s = np.zeros(n_servos)

    def positions_deg(self) -> np.ndarray:
        """Return shaft angles, (n_servos,) float64."""
        return np.rad2deg(self._angle_rad)

    def velocities_deg_s(self) -> np.ndarray:
        """Return shaft speeds, (n_servos,) float64."""
        return np.rad2deg(self._speed_rad_s)

    def step(self, duty: np.ndarray, dt_s: float) -> None:
        """Advance every rotor by `dt_s`; the back-EMF is integrated exactly, friction can stick."""
        drive_nm = np.clip(duty, -1.0, 1.0) * STALL_TORQUE_NM + self.load_nm
        settled_rad_s = drive_nm / self._damping_nm_s_rad
        decay = np.exp(-self._damping_nm_s_rad / self._inertia_kg_m2 * dt_s)
        free_rad_s = settled_rad_s + (self._speed_rad_s - settled_rad_s) * decay
        lost_rad_s = self._friction_nm / self._inertia_kg_m2 * dt_s
        self._speed_rad_s = np.sign(free_rad_s) * np.maximum(np.abs(free_rad_s) - lost_rad_s, 0.0)
        moved_rad = self._angle_rad + self._speed_rad_s * dt_s
        stops_rad = np.deg2rad(self.stops_deg)
        self._angle_rad = np.clip(moved_rad, stops_rad[:, 0], stops_rad[:, 1])
        self._speed_rad_s[self._angle_rad != moved_rad] = 0.0
