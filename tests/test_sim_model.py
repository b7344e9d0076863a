"""The arm of the simulator against published figures of the SO-101, and the desk around it."""

import numpy as np
import pytest

from firmware_bridge.calibration import JOINTS

mujoco = pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from sim.joints import (
    JOINT_LIMITS_DEG,
    joints_deg_from_positions,
    positions_from_joints_deg,
)
from sim.layout import BIN_M, CUBE_NAMES, MIN_CUBE_GAP_M, sample_layout
from sim.model import World
from sim.reach import joints_for_tip_deg


@pytest.fixture(scope="module")
def world():
    return World(seed=0)


def pose(world, **joints_rad):
    """Put the arm at an angle per joint, 0 where not given, and return the fingertip."""
    world.data.qpos[world.joint_qpos] = [joints_rad.get(name, 0.0) for name in JOINTS]
    mujoco.mj_forward(world.model, world.data)
    return world.data.site("tip").xpos.copy()


def test_the_fingertip_is_where_the_so101_has_it_at_zero(world):
    np.testing.assert_allclose(pose(world), [0.3914, 0.0, 0.2265], atol=1e-4)


@pytest.mark.parametrize(
    ("joint", "axis", "through"),
    [
        ("shoulder_pan", [0, 0, -1], [0.0388, 0.0, None]),
        ("shoulder_lift", [0, 1, 0], [0.0692, -0.0183, 0.1166]),
        ("elbow_flex", [0, 1, 0], [0.0972, -0.0183, 0.2292]),
        ("wrist_flex", [0, 1, 0], [0.2321, -0.0183, 0.2344]),
        ("wrist_roll", [-1, 0, 0], [0.2932, 0.0, 0.2344]),
    ],
)
def test_joint_axes_lie_where_the_so101_has_them_at_zero(world, joint, axis, through):
    pose(world)
    np.testing.assert_allclose(world.data.joint(joint).xaxis, axis, atol=1e-3)
    for measured, expected in zip(world.data.joint(joint).xanchor, through, strict=True):
        assert expected is None or measured == pytest.approx(expected, abs=3e-4)


@pytest.mark.parametrize(
    ("joint", "coordinate", "expected_m"),
    [
        ("shoulder_pan", 1, -0.104),
        ("shoulder_lift", 2, 0.126),
        ("elbow_flex", 2, 0.140),
        ("wrist_flex", 2, 0.180),
    ],
)
def test_positive_angles_pan_right_and_bend_down(world, joint, coordinate, expected_m):
    assert pose(world, **{joint: 0.3})[coordinate] == pytest.approx(expected_m, abs=5e-4)


def test_the_gripper_opens_with_positive_angles(world):
    gaps_m = []
    for angle_rad in (-0.1745, 0.0, 0.5, 1.0, 1.745):
        pose(world, gripper=angle_rad)
        pads = [world.model.geom(name).id for name in ("fixed_pad_1", "moving_pad_1")]
        gaps_m.append(mujoco.mj_geomDistance(world.model, world.data, *pads, 1.0, None))
    # The published figures are between the tips; the pads' nearest edges are a little closer.
    np.testing.assert_allclose(gaps_m, [0.004, 0.016, 0.055, 0.091, 0.133], atol=0.010)
    assert gaps_m == sorted(gaps_m)


def test_masses_are_those_of_the_so101(world):
    bodies = ("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "jaw")
    total_kg = sum(float(world.model.body(name).mass[0]) for name in bodies)
    assert total_kg == pytest.approx(0.632, abs=5e-4)


def test_gravity_loads_the_joints_as_published(world):
    lift = world.model.joint("shoulder_lift").dofadr[0]
    elbow = world.model.joint("elbow_flex").dofadr[0]
    # Every link level: the arm at its longest reach.
    pose(world, shoulder_lift=1.327, elbow_flex=-1.29, wrist_flex=-0.08)
    world.data.qvel[:] = 0.0
    mujoco.mj_forward(world.model, world.data)
    assert abs(world.data.qfrc_bias[lift]) == pytest.approx(0.86, abs=0.06)
    assert abs(world.data.qfrc_bias[elbow]) == pytest.approx(0.45, abs=0.06)


def test_joint_limits_in_code_and_model_agree(world):
    joint_ids = [world.model.joint(name).id for name in JOINTS]
    np.testing.assert_allclose(
        np.rad2deg(world.model.jnt_range[joint_ids]), JOINT_LIMITS_DEG, atol=1e-9
    )


def test_gripper_percent_spans_its_range_and_positions_convert_back():
    closed, opened = np.zeros(6), np.zeros(6)
    closed[5], opened[5] = JOINT_LIMITS_DEG[5]
    assert positions_from_joints_deg(closed)[5] == 0.0
    assert positions_from_joints_deg(opened)[5] == 100.0
    positions = np.array([3.0, -34.5, 32.8, 57.8, -11.0, 4.9])
    np.testing.assert_allclose(
        positions_from_joints_deg(joints_deg_from_positions(positions)), positions, atol=1e-12
    )


@pytest.mark.parametrize("pitch_deg", [45.0, 75.0, 90.0])
@pytest.mark.parametrize("tip_m", [(0.22, 0.0, 0.02), (0.20, 0.12, 0.05), (0.16, -0.18, 0.04)])
def test_inverse_kinematics_puts_the_fingertip_there(world, tip_m, pitch_deg):
    joints_deg = joints_for_tip_deg(np.array(tip_m), pitch_deg)
    if joints_deg is None:
        pytest.skip("the gripper cannot be held at this pitch there")
    radians = dict(zip(JOINTS, np.deg2rad(joints_deg), strict=False))
    np.testing.assert_allclose(pose(world, **radians), tip_m, atol=5e-4)
    assert joints_deg[1:4].sum() == pytest.approx(pitch_deg)


def test_inverse_kinematics_says_when_a_point_is_out_of_reach():
    assert joints_for_tip_deg(np.array([0.9, 0.0, 0.05])) is None


@pytest.mark.parametrize("seed", range(25))
def test_every_layout_is_reachable_clear_and_repeatable(seed):
    cubes = sample_layout(seed)
    assert cubes == sample_layout(seed)
    assert tuple(cube.name for cube in cubes) == CUBE_NAMES
    spots_m = np.array([[cube.x_m, cube.y_m] for cube in cubes])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.hypot(*(spots_m[first] - spots_m[second])) >= MIN_CUBE_GAP_M
    for spot_m in spots_m:
        assert np.hypot(*(spot_m - BIN_M)) > 0.08
        assert joints_for_tip_deg(np.array([*spot_m, 0.02]), 80.0) is not None


def test_different_seeds_give_different_layouts():
    assert sample_layout(1) != sample_layout(2)


def test_an_unpowered_world_stays_at_rest():
    world = World(seed=1)
    before = world.truth()
    for _ in range(2500):
        mujoco.mj_step(world.model, world.data)
    after = world.truth()
    for name in CUBE_NAMES:
        np.testing.assert_allclose(after.cubes_m[name], before.cubes_m[name], atol=1e-4)
        assert after.cubes_m[name][2] == pytest.approx(0.014, abs=5e-4)
    np.testing.assert_allclose(after.positions, before.positions, atol=0.5)


def test_a_cube_counts_as_in_the_bin_only_inside_it():
    world = World(seed=0)
    world.data.joint("red_cube").qpos[:3] = [*BIN_M, 0.03]
    world.data.joint("blue_cube").qpos[:3] = [*BIN_M, 0.20]
    assert world.truth().cubes_in_bin == ("red_cube",)
