"""The simulated desk as questions see it: objects with a place, an outline in the picture, a view.

The arm is posed by its inverse kinematics and nothing moves, so that a scene costs milliseconds.
Import after MUJOCO_GL has been set (`sim.gl`).
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import mujoco
import numpy as np

from sim.joints import GRIPPER, JOINT_LIMITS_DEG
from sim.layout import BIN_M, CUBE_HALF_M, CUBE_NAMES
from sim.model import FOLDED_DEG, World
from sim.pictures import Pictures
from sim.reach import joints_for_tip_deg
from sim.variation import CUBE_COLOURS, Look, draw_variation

FRONT, WRIST = "front", "wrist"
PICK_PITCH_DEG = 80.0
COLOURS_RGB = {name: colorsys.hsv_to_rgb(*hsv) for name, hsv in CUBE_COLOURS.items()}
MAX_CUBES = len(CUBE_NAMES)
BIN = "bin"

_UNDER_THE_DESK_M = np.array([0.0, 0.0, -2.0])
_BIN_WALL_M = (0.055, 0.040)  # half width and height
_OPEN_SHARE, _CLOSED_SHARE = 0.6, 0.25  # of the gripper's range
_CORNERS = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T  # of a box


@dataclass(frozen=True, slots=True)
class Outline:
    """What one object takes up in the front picture; shares of its width and height."""

    centre: tuple[float, float]  # of the pixels that show it, x to the right, y downwards
    radius: float  # of a disc with as many pixels, as a share of the picture's height
    visible: float  # how much of the object's own outline is not hidden, 0..1


@dataclass(frozen=True, slots=True)
class Place:
    """One cube of a layout."""

    colour: str
    x_m: float
    y_m: float
    yaw_rad: float

    @property
    def name(self) -> str:
        """Name the cube as questions do."""
        return f"{self.colour} cube"


class Desk:
    """The demo world with its two cameras; `height_px` of the pictures, which are 4:3.

    A `varied` one looks different in every scene: arm, mat, lights, and where the cameras are.
    """

    def __init__(self, height_px: int, *, varied: bool = False) -> None:
        self._world = World()
        self._varied = varied
        self._model, self._data = self._world.model, self._world.data
        self.size_px = (height_px * 4 // 3, height_px)
        self._pictures = Pictures(self._model, self.size_px)
        self._bodies = {name: self._model.body(name).id for name in (*CUBE_NAMES, BIN)}
        self._shown: dict[str, str] = {}
        self._look = Look(self._model)

    def close(self) -> None:
        """Free the off-screen context."""
        self._pictures.close()

    def dress(self, rng: np.random.Generator) -> None:
        """Draw how the scene looks; call before `lay_out`, which colours the cubes."""
        self._look.apply(draw_variation(int(rng.integers(2**31))) if self._varied else None)

    def lay_out(self, places: tuple[Place, ...]) -> None:
        """Put up to MAX_CUBES cubes on the desk, and the others out of sight."""
        self._shown = {BIN: BIN}
        for body, place in zip(CUBE_NAMES, places, strict=False):
            self._model.mat(body.removesuffix("_cube")).rgba[:3] = COLOURS_RGB[place.colour]
            self.move(body, np.array([place.x_m, place.y_m, CUBE_HALF_M]), place.yaw_rad)
            self._shown[place.name] = body
        for body in CUBE_NAMES[len(places) :]:
            self.move(body, _UNDER_THE_DESK_M)

    def move(self, body: str, spot_m: np.ndarray, yaw_rad: float = 0.0) -> None:
        """Put a cube's centre at (3,) metres."""
        half = yaw_rad / 2
        self._data.joint(body).qpos[:] = [*spot_m, np.cos(half), 0.0, 0.0, np.sin(half)]

    def pose(self, tip_m: np.ndarray | None, *, is_open: bool = True) -> bool:
        """Point the gripper down with its tip at (3,) metres, or fold the arm; False: no reach."""
        joints_deg = FOLDED_DEG.copy()
        if tip_m is not None:
            body_deg = joints_for_tip_deg(tip_m, PICK_PITCH_DEG)
            if body_deg is None:
                return False
            low_deg, high_deg = JOINT_LIMITS_DEG[GRIPPER]
            share = _OPEN_SHARE if is_open else _CLOSED_SHARE
            joints_deg = np.array([*body_deg, low_deg + share * (high_deg - low_deg)])
        self._data.qpos[self._world.joint_qpos] = np.deg2rad(joints_deg)
        return True

    def settle(self) -> None:
        """Work out where everything is after `lay_out`, `move` and `pose`."""
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def picture(self, camera: str) -> np.ndarray:
        """Render what a camera sees, (height, width, 3) uint8 RGB."""
        return self._pictures.draw(self._data, camera)

    @property
    def tip_m(self) -> np.ndarray:
        """Where the fingertips meet, (3,)."""
        return self._data.site("tip").xpos.copy()

    def centres_m(self) -> Mapping[str, np.ndarray]:
        """Give the centre of every object in sight, by the name it has in questions."""
        return {
            name: self._data.xpos[self._bodies[body]].copy() for name, body in self._shown.items()
        }

    def body_of(self, name: str) -> str:
        """Tell which body of the model an object is."""
        return self._shown[name]

    def seen_from_front(self, points_m: np.ndarray) -> np.ndarray:
        """Project (n, 3) points; (n, 3): x and y as shares of the picture, distance in metres."""
        camera = self._data.camera(FRONT)
        local = (np.atleast_2d(points_m) - camera.xpos) @ camera.xmat.reshape(3, 3)
        half_height = np.tan(np.deg2rad(self._model.camera(FRONT).fovy[0]) / 2)
        aspect = self.size_px[0] / self.size_px[1]
        depth = -local[:, 2]
        x = 0.5 + local[:, 0] / depth / (2 * half_height * aspect)
        y = 0.5 - local[:, 1] / depth / (2 * half_height)
        return np.stack([x, y, depth], axis=1)

    def masks(self, camera: str) -> dict[str, np.ndarray]:
        """Say which pixels show each object that a camera sees, (height, width) bool."""
        owners = self._pictures.draw_owners(self._data, camera)
        masks = {name: owners == self._bodies[body] for name, body in self._shown.items()}
        return {name: mask for name, mask in masks.items() if mask.any()}

    def outlines(self) -> dict[str, Outline]:
        """Find every object in the front picture; one that is wholly hidden is left out."""
        return {
            name: self._outline(*np.nonzero(mask), self._whole_px(name))
            for name, mask in self.masks(FRONT).items()
        }

    def _outline(self, rows: np.ndarray, columns: np.ndarray, whole_px: float) -> Outline:
        width, height = self.size_px
        centre = (float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height)
        radius = float(np.sqrt(len(rows) / np.pi)) / height
        return Outline(centre, radius, min(1.0, len(rows) / max(whole_px, 1.0)))

    def _whole_px(self, name: str) -> float:
        """Give the area of an object's box in the front picture, in pixels, hidden or not."""
        half = np.full(3, CUBE_HALF_M)
        offset = np.zeros(3)
        if name == BIN:
            wide, high = _BIN_WALL_M
            half, offset = np.array([wide, wide, high / 2]), np.array([0.0, 0.0, high / 2])
        body = self._bodies[self._shown[name]]
        turn = self._data.xmat[body].reshape(3, 3)
        corners_m = self._data.xpos[body] + (offset + _CORNERS * half) @ turn.T
        seen = self.seen_from_front(corners_m)[:, :2] * self.size_px
        return float(cv2.contourArea(cv2.convexHull(seen.astype(np.float32))))


def can_pick(x_m: float, y_m: float) -> bool:
    """Tell whether the gripper gets down to a cube that lies there, and up again."""
    return all(
        joints_for_tip_deg(np.array([x_m, y_m, z_m]), PICK_PITCH_DEG) is not None
        for z_m in (CUBE_HALF_M, 0.09)
    )


def gap_to_bin_m(x_m: float, y_m: float) -> float:
    """Give the distance of a spot on the desk to the bin's middle."""
    return float(np.hypot(x_m - BIN_M[0], y_m - BIN_M[1]))
