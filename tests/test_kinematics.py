"""Forward kinematics and clearances against published figures, brute force and MuJoCo's model."""

import dataclasses

import numpy as np
import pytest
from gate_caller import ARM

from edge.arm_profile import ArmSeat
from edge.clearance import Clearances
from edge.kinematics import BASE, CAPSULES, JOINTS, Frames

AT_ORIGIN = ArmSeat("follower", (0.0, 0.0, 0.0), 0.0)
SIDE_BY_SIDE = (ArmSeat("left", (0.0, 0.2, 0.0), 0.0), ArmSeat("right", (0.0, -0.2, 0.0), 0.0))
# The gripper's joint is at zero angle here: 0.1745 of its 1.9199 rad.
ZERO = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 100.0 * 0.174533 / 1.919862])
LOW = np.array([joint.min_position for joint in ARM.joints])
HIGH = np.array([joint.max_position for joint in ARM.joints])


def frames_at(positions, seats=(AT_ORIGIN,)):
    frames = Frames(seats, 1)
    frames.place(np.atleast_2d(positions))
    return frames


def tip_at(**changed):
    positions = ZERO.copy()
    for name, value in changed.items():
        positions[JOINTS.index(name)] = value
    return frames_at(positions).tip_m()


def test_fingertip_and_axes_at_zero_are_those_published():
    np.testing.assert_allclose(tip_at(), [0.3914, 0.0, 0.2265], atol=1e-4)
    links = frames_at(ZERO).links[0, 0]
    origins_m = {
        "shoulder_pan": (0.0388, 0.0, None),
        "shoulder_lift": (0.0692, -0.018, 0.1166),
        "elbow_flex": (0.0972, -0.018, 0.2292),
        "wrist_flex": (0.2321, -0.018, 0.2344),
        "wrist_roll": (0.2932, 0.0, 0.2344),
    }
    for name, origin_m in origins_m.items():
        found_m = links[JOINTS.index(name), :3, 3]
        for found, published in zip(found_m, origin_m, strict=True):
            assert published is None or found == pytest.approx(published, abs=5e-4), name
    axes = [(0, 0, -1), (0, 1, 0), (0, 1, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)]
    for joint, axis in enumerate(axes):
        np.testing.assert_allclose(links[joint, :3, 2], axis, atol=0.05)


@pytest.mark.parametrize(
    ("joint", "coordinate", "published_m"),
    [
        ("shoulder_pan", 1, -0.104),
        ("shoulder_lift", 2, 0.126),
        ("elbow_flex", 2, 0.140),
        ("wrist_flex", 2, 0.180),
    ],
)
def test_positive_angles_pan_right_and_bend_down(joint, coordinate, published_m):
    tip_m = tip_at(**{joint: np.rad2deg(0.3)})
    assert tip_m[coordinate] == pytest.approx(published_m, abs=5e-4)


def test_longest_reach_is_the_published_one():
    # Every link level: 0.411 m from the axis of the shoulder lift.
    tip_m = tip_at(
        shoulder_lift=np.rad2deg(1.327), elbow_flex=np.rad2deg(-1.29), wrist_flex=np.rad2deg(-0.08)
    )
    lift_m = np.array([0.0692, 0.0, 0.1166])
    assert np.linalg.norm(tip_m - lift_m) == pytest.approx(0.411, abs=2e-3)


def test_two_arms_stand_where_the_profile_puts_them():
    turned = (ArmSeat("left", (0.1, 0.2, 0.3), 90.0), SIDE_BY_SIDE[1])
    frames = frames_at(np.tile(ZERO, 2), turned)
    np.testing.assert_allclose(frames.tip_m(arm=0), [0.1, 0.5914, 0.5265], atol=1e-4)
    np.testing.assert_allclose(frames.tip_m(arm=1), [0.3914, -0.2, 0.2265], atol=1e-4)


def nearest_by_brute_force(one, other):
    """The distance of two segments, by trying many points of each."""
    share = np.linspace(0.0, 1.0, 61)[:, None]
    a = one[0] + share * (one[1] - one[0])
    b = other[0] + share * (other[1] - other[0])
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1)).min()


def ends(frames, arm, number):
    return [frames.points[frames.point_index(0, arm, number, end)] for end in (0, 1)]


@pytest.mark.parametrize("seats", [(AT_ORIGIN,), SIDE_BY_SIDE], ids=["one arm", "two arms"])
def test_clearances_are_distances_of_capsules(seats):
    rng = np.random.default_rng(3)
    clearances = Clearances(seats, ARM.workspace, 1)
    for _ in range(12):
        positions = rng.uniform(np.tile(LOW, len(seats)), np.tile(HIGH, len(seats)))
        measured_m = clearances.measure(positions[None])[0]
        for check, found_m in zip(clearances.checks, measured_m, strict=True):
            parts = [ends(clearances.frames, *part) for part in check.parts]
            radii_m = [CAPSULES[number].radius_m for _, number in check.parts]
            if check.over_table:
                expected_m = min(end[2] for end in parts[0]) - radii_m[0]
            else:
                expected_m = nearest_by_brute_force(*parts) - sum(radii_m)
            assert found_m == pytest.approx(expected_m, abs=1e-3), check.text


def test_several_poses_at_once_are_measured_like_one_after_the_other():
    rng = np.random.default_rng(4)
    poses = rng.uniform(LOW, HIGH, (6, 6))
    together = Clearances((AT_ORIGIN,), ARM.workspace, 6).measure(poses)
    one = Clearances((AT_ORIGIN,), ARM.workspace, 1)
    for pose, measured_m in zip(poses, together, strict=True):
        np.testing.assert_allclose(one.measure(pose[None])[0], measured_m, atol=1e-12)


def test_profile_without_a_table_measures_pairs_only():
    no_table = dataclasses.replace(ARM.workspace, table_m=None)
    clearances = Clearances((AT_ORIGIN,), no_table, 1)
    assert not any(check.over_table for check in clearances.checks)
    assert np.isfinite(clearances.measure(ZERO[None])).all()


BODIES = ("shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "jaw")


@pytest.fixture(scope="module")
def world():
    pytest.importorskip("mujoco", reason="compares with the simulator's model")
    from sim.model import World

    return World(seed=0)


def put(world, positions):
    import mujoco

    from sim.joints import joints_deg_from_positions

    world.data.qpos[world.joint_qpos] = np.deg2rad(joints_deg_from_positions(positions))
    mujoco.mj_forward(world.model, world.data)


def test_frames_are_those_of_the_simulated_arm(world):
    rng = np.random.default_rng(1)
    frames = Frames((AT_ORIGIN,), 1)
    for _ in range(200):
        positions = rng.uniform(LOW, HIGH)
        put(world, positions)
        frames.place(positions[None])
        for link, name in enumerate(BODIES):
            body, found = world.data.body(name), frames.links[0, 0, link]
            np.testing.assert_allclose(found[:3, 3], body.xpos, atol=1e-5)
            np.testing.assert_allclose(found[:3, :3], body.xmat.reshape(3, 3), atol=1e-5)
        np.testing.assert_allclose(frames.tip_m(), world.data.site("tip").xpos, atol=1e-5)


def touch_geoms(world, name):
    body = world.model.body(name).id
    return [
        number
        for number in range(world.model.ngeom)
        if world.model.geom_bodyid[number] == body and world.model.geom_group[number] == 3
    ]


def test_capsules_stand_for_the_simulated_arms_parts(world):
    """Where two parts are within 30 mm, capsules say so to 21 mm; most are closer than that."""
    import mujoco

    body_of = {BASE: "base", **dict(enumerate(BODIES))}
    geoms = {name: touch_geoms(world, name) for name in ("base", *BODIES)}
    clearances = Clearances((AT_ORIGIN,), dataclasses.replace(ARM.workspace, table_m=None), 1)
    errors_m = []
    rng = np.random.default_rng(2)
    for _ in range(250):
        positions = rng.uniform(LOW, HIGH)
        put(world, positions)
        found_m = {}
        for check, measured in zip(
            clearances.checks, clearances.measure(positions[None])[0], strict=True
        ):
            pair = tuple(body_of[CAPSULES[number].link] for _, number in check.parts)
            found_m[pair] = min(found_m.get(pair, 1.0), measured)
        for (one, other), measured in found_m.items():
            true_m = min(
                mujoco.mj_geomDistance(world.model, world.data, a, b, 0.3, None)
                for a in geoms[one]
                for b in geoms[other]
            )
            if abs(true_m) < 0.03:
                errors_m.append(measured - true_m)
    errors_m = np.array(errors_m)
    assert len(errors_m) > 100
    assert np.abs(errors_m).max() < 0.021
    assert np.percentile(np.abs(errors_m), 80) < 0.012


def test_parked_arm_is_free_by_its_own_limits(world):
    world.reset(0)
    positions = np.array(world.truth().positions)
    clearances = Clearances((AT_ORIGIN,), ARM.workspace, 1)
    found_m = clearances.measure(positions[None])[0]
    for check, measured in zip(clearances.checks, found_m, strict=True):
        assert measured >= check.limit_m, check.text
