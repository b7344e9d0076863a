"""Where the cubes lie at the start of an episode, drawn from a seed.

Every cube is where the gripper can pick it up from above, clear of the others, of the bin and of
the folded arm. The same seed gives the same layout on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.reach import PAN_AXIS_X_M, joints_for_tip_deg

CUBE_NAMES = ("red_cube", "green_cube", "blue_cube")
CUBE_HALF_M = 0.014

# Polar region around the pan axis; bearings are positive to the robot's left, the bin is right.
RADIUS_M = (0.15, 0.25)
BEARING_DEG = (-18.0, 55.0)
MIN_CUBE_GAP_M = 0.060
MIN_BIN_GAP_M = 0.100
MIN_TIP_GAP_M = 0.065
BIN_M = np.array([0.19, -0.20])
FOLDED_TIP_M = np.array([0.18, 0.0])
PICK_PITCH_DEG = 80.0
MAX_DRAWS = 10_000

# The mark that a cube may be pushed to.
MARK_RADIUS_M = 0.030
MARK_RADIUS_FROM_PAN_M = (0.150, 0.265)
MARK_BEARING_DEG = (-22.0, 60.0)
PUSH_M = (0.070, 0.130)
# Half as wide as a cube on its edge and the gripper need.
PUSH_LANE_M = 0.045
MARK_DRAWS = 300


@dataclass(frozen=True, slots=True)
class CubePose:
    """A cube lying on the desk."""

    name: str
    x_m: float
    y_m: float
    yaw_deg: float


def sample_layout(seed: int) -> tuple[CubePose, ...]:
    """Draw one pose per cube, in the order of CUBE_NAMES."""
    rng = np.random.default_rng(seed)
    placed: list[CubePose] = []
    for _ in range(MAX_DRAWS):
        radius_m = rng.uniform(*RADIUS_M)
        bearing_rad = np.deg2rad(rng.uniform(*BEARING_DEG))
        yaw_deg = float(rng.uniform(-45.0, 45.0))
        spot_m = np.array(
            [PAN_AXIS_X_M + radius_m * np.cos(bearing_rad), radius_m * np.sin(bearing_rad)]
        )
        if _is_free(spot_m, placed):
            name = CUBE_NAMES[len(placed)]
            placed.append(CubePose(name, float(spot_m[0]), float(spot_m[1]), yaw_deg))
            if len(placed) == len(CUBE_NAMES):
                return tuple(placed)
    raise RuntimeError(f"no layout of {len(CUBE_NAMES)} cubes found in {MAX_DRAWS} draws")


def mark_of(layout_seed: int, cube: int) -> np.ndarray | None:
    """Return where cube number `cube` of a layout may be pushed, (2,), None when it cannot be."""
    spots_m = np.array([(pose.x_m, pose.y_m) for pose in sample_layout(layout_seed)])
    return sample_mark(layout_seed, spots_m, cube)


def sample_mark(seed: int, cubes_m: np.ndarray, pushed: int) -> np.ndarray | None:
    """Draw the mark (2,) for cube number `pushed` of `cubes_m` (n, 2), with a free way to it.

    None where none was found: the others stand around the cube.
    """
    rng = np.random.default_rng((seed, 2))
    start_m, others_m = cubes_m[pushed], np.delete(cubes_m, pushed, axis=0)
    for _ in range(MARK_DRAWS):
        angle_rad, way_m = rng.uniform(-np.pi, np.pi), rng.uniform(*PUSH_M)
        direction = np.array([np.cos(angle_rad), np.sin(angle_rad)])
        mark_m = start_m + way_m * direction
        behind_m = start_m - PUSH_LANE_M * direction
        if (
            _is_for_marks(mark_m)
            and _can_be_reached(behind_m)
            and np.hypot(*(mark_m - BIN_M)) >= MIN_BIN_GAP_M
            and min(_gap_to_way_m(other_m, behind_m, mark_m) for other_m in others_m) >= PUSH_LANE_M
        ):
            return mark_m
    return None


def _is_for_marks(spot_m: np.ndarray) -> bool:
    offset_m = spot_m - [PAN_AXIS_X_M, 0.0]
    bearing_deg = np.rad2deg(np.arctan2(offset_m[1], offset_m[0]))
    inside = MARK_RADIUS_FROM_PAN_M[0] <= np.hypot(*offset_m) <= MARK_RADIUS_FROM_PAN_M[1]
    inside &= MARK_BEARING_DEG[0] <= bearing_deg <= MARK_BEARING_DEG[1]
    return bool(inside and _can_be_reached(spot_m))


def _can_be_reached(spot_m: np.ndarray) -> bool:
    return all(
        joints_for_tip_deg(np.array([*spot_m, z_m]), PICK_PITCH_DEG) is not None
        for z_m in (0.01, 0.09)
    )


def _gap_to_way_m(spot_m: np.ndarray, start_m: np.ndarray, end_m: np.ndarray) -> float:
    way_m = end_m - start_m
    along = np.clip((spot_m - start_m) @ way_m / (way_m @ way_m), 0.0, 1.0)
    return float(np.hypot(*(spot_m - start_m - along * way_m)))


def _is_free(spot_m: np.ndarray, placed: list[CubePose]) -> bool:
    gaps_m = [float(np.hypot(spot_m[0] - cube.x_m, spot_m[1] - cube.y_m)) for cube in placed]
    return (
        all(gap_m >= MIN_CUBE_GAP_M for gap_m in gaps_m)
        and np.hypot(*(spot_m - BIN_M)) >= MIN_BIN_GAP_M
        and np.hypot(*(spot_m - FOLDED_TIP_M)) >= MIN_TIP_GAP_M
        and _can_be_reached(spot_m)
    )
