"""How a world looks in one episode: colours, lights and camera poses, drawn from a seed.

Physics is untouched. `Look` keeps what the model looked like first, so that any number of
variations may follow each other in one world, and `None` brings the plain one back.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import mujoco
import numpy as np

from sim.camera_process import CAMERA_NAMES
from sim.layout import CUBE_NAMES

# What an instruction may call a cube, as hue, saturation, value.
CUBE_COLOURS = {
    "red": (0.000, 0.88, 0.84),
    "green": (0.365, 0.84, 0.62),
    "blue": (0.629, 0.88, 0.85),
    "yellow": (0.150, 0.90, 0.92),
    "purple": (0.780, 0.72, 0.62),
    "white": (0.000, 0.02, 0.93),
}
PLAIN_COLOURS = ("red", "green", "blue")
OTHER_COLOURS_SHARE = 0.25
COLOUR_JITTER = np.array([0.012, 0.06, 0.08])

# Arms are printed in any colour; most are orange or yellow, white or black.
ARM_COLOURS = ((0.97, 0.66, 0.11), (0.95, 0.42, 0.12), (0.90, 0.90, 0.88), (0.16, 0.16, 0.17))
PLAIN_ARM_SHARE = 0.6
MAT_COLOURS = ((0.16, 0.29, 0.31), (0.22, 0.22, 0.24), (0.30, 0.36, 0.22), (0.46, 0.44, 0.42))
PLAIN_MAT_SHARE = 0.5
DARKEST_WOOD = 0.55

FRONT_SHIFT_M, WRIST_SHIFT_M = 0.015, 0.003
CAMERA_TURN_DEG, FIELD_OF_VIEW_DEG = 1.5, 1.5
BRIGHTNESS = (0.65, 1.3)
LIGHT_TURN_DEG = 30.0

DRAWN_GROUP, HIDDEN_GROUP = 2, 4


@dataclass(frozen=True, slots=True)
class CameraShift:
    """How a camera differs from where the model has it."""

    shift_m: tuple[float, float, float]
    turn_deg: tuple[float, float, float]
    field_of_view_deg: float


@dataclass(frozen=True, slots=True)
class Variation:
    """The looks of one episode; colours are linear RGB in 0..1."""

    cube_colours: tuple[str, ...]  # a key of CUBE_COLOURS for each of CUBE_NAMES
    cube_rgb: tuple[tuple[float, float, float], ...]
    arm_rgb: tuple[float, float, float] | None  # None keeps the plain one, here and below
    mat_rgb: tuple[float, float, float] | None
    wood_rgb: tuple[float, float, float]  # multiplies the desk's own colour
    brightness: float  # of the lamps
    ambient: float  # of the light from everywhere
    lamp_turn_deg: tuple[float, float]  # of the main lamp, about x and y
    cameras: tuple[CameraShift, ...]  # for each of CAMERA_NAMES


def draw_lights(seed: int) -> Variation:
    """Draw the light and the exact shades of an episode; things and cameras are the plain ones."""
    rng = np.random.default_rng((seed, 2))
    still = CameraShift((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0)
    return Variation(
        cube_colours=PLAIN_COLOURS,
        cube_rgb=tuple(_jittered(CUBE_COLOURS[colour], rng) for colour in PLAIN_COLOURS),
        arm_rgb=None,
        mat_rgb=None,
        wood_rgb=_numbers(np.full(3, rng.uniform(DARKEST_WOOD, 1.0))),
        brightness=float(rng.uniform(*BRIGHTNESS)),
        ambient=float(rng.uniform(*BRIGHTNESS)),
        lamp_turn_deg=_numbers(rng.uniform(-LIGHT_TURN_DEG, LIGHT_TURN_DEG, 2)),
        cameras=(still,) * len(CAMERA_NAMES),
    )


def draw_variation(seed: int) -> Variation:
    """Draw the looks of an episode; the same seed gives the same on every machine."""
    rng = np.random.default_rng((seed, 1))
    colours = PLAIN_COLOURS
    if rng.random() < OTHER_COLOURS_SHARE:
        names = list(CUBE_COLOURS)
        colours = tuple(names[i] for i in rng.permutation(len(names))[: len(CUBE_NAMES)])
    cube_rgb = tuple(_jittered(CUBE_COLOURS[colour], rng) for colour in colours)
    arm = None if rng.random() < PLAIN_ARM_SHARE else _choice(ARM_COLOURS, rng)
    mat = None if rng.random() < PLAIN_MAT_SHARE else _choice(MAT_COLOURS, rng)
    grey = rng.uniform(DARKEST_WOOD, 1.0)
    return Variation(
        cube_colours=colours,
        cube_rgb=cube_rgb,
        arm_rgb=arm,
        mat_rgb=mat,
        wood_rgb=_numbers(np.minimum(grey * rng.uniform(0.9, 1.1, 3), 1.0)),
        brightness=float(rng.uniform(*BRIGHTNESS)),
        ambient=float(rng.uniform(*BRIGHTNESS)),
        lamp_turn_deg=_numbers(rng.uniform(-LIGHT_TURN_DEG, LIGHT_TURN_DEG, 2)),
        cameras=tuple(_camera_shift(name, rng) for name in CAMERA_NAMES),
    )


class Look:
    """The looks of a model: what they were, and how they are changed."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._fields = (
            *(model.mat_rgba, model.geom_rgba, model.geom_matid, model.light_diffuse),
            *(model.light_dir, model.cam_pos, model.cam_quat, model.cam_fovy),
            *(model.site_group, model.site_pos, model.vis.headlight.ambient),
        )
        self._plain = [field.copy() for field in self._fields]

    def apply(self, variation: Variation | None) -> None:
        """Make the model look so; None is the plain model. Hides the mark."""
        for field, plain in zip(self._fields, self._plain, strict=True):
            field[:] = plain
        if variation is None:
            return
        model = self._model
        for colour, rgb in zip(CUBE_NAMES, variation.cube_rgb, strict=True):
            model.mat_rgba[model.material(colour.removesuffix("_cube")).id, :3] = rgb
        if variation.arm_rgb is not None:
            model.mat_rgba[model.material("printed").id, :3] = variation.arm_rgb
            model.mat_rgba[model.material("printed_dark").id, :3] = 0.85 * np.array(
                variation.arm_rgb
            )
        if variation.mat_rgb is not None:
            mat = model.geom("mat").id
            model.geom_matid[mat] = -1
            model.geom_rgba[mat, :3] = variation.mat_rgb
        model.mat_rgba[model.material("wood").id, :3] = variation.wood_rgb
        model.light_diffuse[:] *= variation.brightness
        model.vis.headlight.ambient[:] *= variation.ambient
        key = model.light("key").id
        turns = np.deg2rad([*variation.lamp_turn_deg, 0.0])
        model.light_dir[key] = _rotated(model.light_dir[key], turns)
        for name, shift in zip(CAMERA_NAMES, variation.cameras, strict=True):
            camera = model.camera(name).id
            model.cam_pos[camera] += shift.shift_m
            model.cam_quat[camera] = _turned(model.cam_quat[camera], np.deg2rad(shift.turn_deg))
            model.cam_fovy[camera] += shift.field_of_view_deg

    def show_mark(self, spot_m: tuple[float, float]) -> None:
        """Draw the mark at a spot on the desk."""
        mark = self._model.site("mark").id
        self._model.site_pos[mark, :2] = spot_m
        self._model.site_group[mark] = DRAWN_GROUP


def _jittered(hsv: tuple[float, float, float], rng: np.random.Generator) -> tuple:
    hue, saturation, value = np.array(hsv) + rng.uniform(-1.0, 1.0, 3) * COLOUR_JITTER
    if hsv[1] < 0.1:  # white stays white
        saturation = hsv[1]
    saturation, value = np.clip([saturation, value], 0.0, 1.0)
    return _numbers(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _camera_shift(name: str, rng: np.random.Generator) -> CameraShift:
    reach_m = WRIST_SHIFT_M if name == "wrist" else FRONT_SHIFT_M
    return CameraShift(
        shift_m=_numbers(rng.uniform(-reach_m, reach_m, 3)),
        turn_deg=_numbers(rng.uniform(-CAMERA_TURN_DEG, CAMERA_TURN_DEG, 3)),
        field_of_view_deg=float(rng.uniform(-FIELD_OF_VIEW_DEG, FIELD_OF_VIEW_DEG)),
    )


def _choice(rows: tuple, rng: np.random.Generator) -> tuple[float, float, float]:
    return rows[int(rng.integers(len(rows)))]


def _numbers(values: object) -> tuple:
    return tuple(float(value) for value in values)


def _turned(quaternion: np.ndarray, rotation_rad: np.ndarray) -> np.ndarray:
    """Turn a frame about its own axes."""
    turn, turned = np.zeros(4), np.zeros(4)
    angle = float(np.linalg.norm(rotation_rad))
    if angle == 0.0:
        return quaternion
    mujoco.mju_axisAngle2Quat(turn, rotation_rad / angle, angle)
    mujoco.mju_mulQuat(turned, quaternion, turn)
    return turned


def _rotated(vector: np.ndarray, rotation_rad: np.ndarray) -> np.ndarray:
    turn, rotated = np.zeros(4), np.zeros(3)
    angle = float(np.linalg.norm(rotation_rad))
    mujoco.mju_axisAngle2Quat(turn, rotation_rad / angle, angle)
    mujoco.mju_rotVecQuat(rotated, vector, turn)
    return rotated
