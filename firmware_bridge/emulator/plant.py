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
NOMINAL_SUPPLY_V = 12.0
STALL_TORQUE_NM = 2.94
NO_LOAD_SPEED_DEG_S = 270.0
ROTOR_INERTIA_KG_M2 = 0.028
COULOMB_FRICTION_NM = 0.052
# Torque that a goal 5 ticks away asks for at P = 16: users see a dead zone of 4 to 6 ticks.
STICTION_NM = 0.107
# Users measured 0.87 to 1 degree.
BACKLASH_DEG = 0.9


class Plant(Protocol):
    """The mechanical side of a row of servos, in bus order.

    What comes from outside is written into two arrays: `load_nm` (n_servos,) float64, a torque on
    each shaft, and `stuck` (n_servos,) bool, shafts that cannot turn.
    """

    n_servos: int
    load_nm: np.ndarray
    stuck: np.ndarray

    def positions_deg(self) -> np.ndarray:
        """Return output shaft angles, (n_servos,) float64; 0 is encoder tick 2048, + more ticks."""
        ...

    def velocities_deg_s(self) -> np.ndarray:
        """Return output shaft speeds, (n_servos,) float64."""
        ...

    def step(self, duty: np.ndarray, dt_s: float) -> None:
        """Advance by `dt_s` under `duty`, (n_servos,) in -1..1 of 12 V.

        The duty of a servo whose torque is off is 0.
        """
        ...


class RotorPlant:
    """A geared DC motor with inertia, back-EMF, dry friction and backlash per servo, no arm.

    `stops_deg` (n, 2) are hard end stops. From rest a torque must exceed `stiction_nm`; the output,
    which the encoder sees, follows the gear train with `backlash_deg` of play.
    """

    def __init__(
        self,
        n_servos: int = 6,
        *,
        start_deg: np.ndarray | None = None,
        stops_deg: np.ndarray | None = None,
        inertia_kg_m2: float = ROTOR_INERTIA_KG_M2,
        friction_nm: float = COULOMB_FRICTION_NM,
        stiction_nm: float = STICTION_NM,
        backlash_deg: float = BACKLASH_DEG,
    ) -> None:
        self.n_servos = n_servos
        self.load_nm = np.zeros(n_servos)
        self.stuck = np.zeros(n_servos, dtype=bool)
        self.stops_deg = (
            np.tile([-np.inf, np.inf], (n_servos, 1))
            if stops_deg is None
            else np.asarray(stops_deg, dtype=np.float64).reshape(n_servos, 2)
        )
        self._inertia_kg_m2 = inertia_kg_m2
        self._friction_nm = friction_nm
        self._stiction_nm = stiction_nm
        self._play_rad = np.deg2rad(backlash_deg) / 2.0
        self._damping_nm_s_rad = STALL_TORQUE_NM / np.deg2rad(NO_LOAD_SPEED_DEG_S)
        start = np.zeros(n_servos) if start_deg is None else np.asarray(start_deg, dtype=np.float64)
        self._gear_rad = np.deg2rad(np.broadcast_to(start, (n_servos,)).astype(np.float64))
        self._output_rad = self._gear_rad.copy()
        self._speed_rad_s = np.zeros(n_servos)

    def positions_deg(self) -> np.ndarray:
        """Return output shaft angles, (n_servos,) float64."""
        return np.rad2deg(self._output_rad)

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
        speed_rad_s = np.sign(free_rad_s) * np.maximum(np.abs(free_rad_s) - lost_rad_s, 0.0)
        resting = (self._speed_rad_s == 0.0) & (np.abs(drive_nm) <= self._stiction_nm)
        speed_rad_s[resting | self.stuck] = 0.0
        moved_rad = self._gear_rad + speed_rad_s * dt_s
        stops_rad = np.deg2rad(self.stops_deg)
        self._gear_rad = np.clip(moved_rad, stops_rad[:, 0], stops_rad[:, 1])
        speed_rad_s[self._gear_rad != moved_rad] = 0.0
        self._speed_rad_s = speed_rad_s
        self._output_rad = np.clip(
            self._output_rad, self._gear_rad - self._play_rad, self._gear_rad + self._play_rad
        )
