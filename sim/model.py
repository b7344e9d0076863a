"""The demo world in MuJoCo: load it, lay it out from a seed, ask it what is true.

Motors are driven by duty (`MjData.ctrl`, -1..1 of the supply voltage); nothing here closes a
loop. `sim.plant` puts the world behind the emulated servo bus.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from firmware_bridge.calibration import JOINTS
from sim.joints import positions_from_joints_deg
from sim.layout import BIN_M, CUBE_HALF_M, CUBE_NAMES, sample_layout

WORLD_XML = Path(__file__).with_name("desk.xml")

# The arm folded on itself with the torque off: the wrist lies on the shoulder and gravity holds
# it there, which is how an SO-101 is parked.
FOLDED_DEG = np.array([0.0, -96.5, 92.8, 58.5, 0.0, 0.0])
SETTLE_S = 1.0
BIN_HALF_M = 0.052
BIN_HEIGHT_M = 0.040


@dataclass(frozen=True, slots=True)
class Truth:
    """What only a simulator knows, in the world frame (base at the origin, x forward, z up)."""

    t_s: float
    positions: tuple[float, ...]
    tip_m: tuple[float, float, float]
    cubes_m: dict[str, tuple[float, float, float]]
    cubes_in_bin: tuple[str, ...]


class World:
    """The arm, desk, cubes and bin; `model` and `data` are MuJoCo's."""

    def __init__(self, seed: int = 0) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(WORLD_XML))
        self.data = mujoco.MjData(self.model)
        joint_ids = [self.model.joint(name).id for name in JOINTS]
        self.joint_qpos = self.model.jnt_qposadr[joint_ids]
        self.joint_qvel = self.model.jnt_dofadr[joint_ids]
        self.motors = np.array([self.model.actuator(name).id for name in JOINTS])
        self._tip = self.model.site("tip").id
        self._cubes = {name: self.model.body(name).id for name in CUBE_NAMES}
        self.reset(seed)

    def reset(self, seed: int, joints_deg: np.ndarray = FOLDED_DEG) -> None:
        """Lay the cubes out from `seed`, put the arm at (6,) angles, let both settle unpowered."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self.joint_qpos] = np.deg2rad(joints_deg)
        for cube in sample_layout(seed):
            half_yaw_rad = np.deg2rad(cube.yaw_deg) / 2
            self.data.joint(cube.name).qpos[:] = [
                *(cube.x_m, cube.y_m, CUBE_HALF_M),
                *(np.cos(half_yaw_rad), 0.0, 0.0, np.sin(half_yaw_rad)),
            ]
        for _ in range(round(SETTLE_S / self.timestep_s)):
            mujoco.mj_step(self.model, self.data)
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)

    @property
    def timestep_s(self) -> float:
        """The length of one physics step."""
        return float(self.model.opt.timestep)

    def joints_deg(self) -> np.ndarray:
        """Return the joint angles, (6,) float64."""
        return np.rad2deg(self.data.qpos[self.joint_qpos])

    def truth(self) -> Truth:
        """Read the arm in LeRobot positions, the fingertip and the cubes."""
        mujoco.mj_kinematics(self.model, self.data)
        cubes_m = {name: _triple(self.data.xpos[body]) for name, body in self._cubes.items()}
        return Truth(
            t_s=float(self.data.time),
            positions=tuple(float(p) for p in positions_from_joints_deg(self.joints_deg())),
            tip_m=_triple(self.data.site_xpos[self._tip]),
            cubes_m=cubes_m,
            cubes_in_bin=tuple(name for name, spot_m in cubes_m.items() if _in_bin(spot_m)),
        )


def _triple(vector: np.ndarray) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def _in_bin(spot_m: tuple[float, float, float]) -> bool:
    inside = np.all(np.abs(np.array(spot_m[:2]) - BIN_M) < BIN_HALF_M)
    return bool(inside and spot_m[2] < BIN_HEIGHT_M)
