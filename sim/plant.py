"""The simulated arm as something the emulated servos can turn.

Implements `firmware_bridge.emulator.plant.Plant`: the shaft angle of a servo is the joint's angle
in degrees (0 = encoder tick 2048), duty goes straight to the MuJoCo motors, whose gear is the
stall torque and whose joint damping is the back-EMF of the 12 V STS3215.
"""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np

from sim.joints import N_JOINTS
from sim.model import World


class MujocoPlant:
    """Six servos that move a `World`.

    `on_step(world)` is called after every physics step, in the caller's thread, and must be short.
    """

    def __init__(self, world: World, on_step: Callable[[World], None] | None = None) -> None:
        self.n_servos = N_JOINTS
        self.load_nm = np.zeros(N_JOINTS)
        self.stuck = np.zeros(N_JOINTS, dtype=bool)
        self.world = world
        self._on_step = on_step
        self._owed_s = 0.0

    def positions_deg(self) -> np.ndarray:
        """Return shaft angles, (6,) float64; 0 is encoder tick 2048."""
        return self.world.joints_deg()

    def velocities_deg_s(self) -> np.ndarray:
        """Return shaft speeds, (6,) float64."""
        return np.rad2deg(self.world.data.qvel[self.world.joint_qvel])

    def step(self, duty: np.ndarray, dt_s: float) -> None:
        """Advance by `dt_s` under `duty` (6,) in -1..1, in whole physics steps.

        What is left of `dt_s` after the last whole step is carried over to the next call.
        """
        world = self.world
        world.data.ctrl[world.motors] = np.clip(duty, -1.0, 1.0)
        world.data.qfrc_applied[world.joint_qvel] = self.load_nm
        self._owed_s += dt_s
        timestep_s = world.timestep_s
        # Half a nanosecond of slack, so that sums of 1 ms are not one step short of 2 ms.
        while self._owed_s >= timestep_s - 5e-10:
            self._step_physics()
            self._owed_s -= timestep_s
            if self._on_step is not None:
                self._on_step(world)

    def _step_physics(self) -> None:
        """Step the world; joints that are stuck are put back to where they were."""
        model, data = self.world.model, self.world.data
        joints = self.world.joint_qpos[self.stuck]
        held = data.qpos[joints]
        mujoco.mj_step(model, data)
        if joints.size:
            data.qpos[joints] = held
            data.qvel[self.world.joint_qvel[self.stuck]] = 0.0
