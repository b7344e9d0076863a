"""The world on its own clock: the same arm, the same pictures, and depth that is true."""

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from edge.verdict import Outcome
from sim.camera_process import CAMERA_NAMES
from sim.gl import GlError, ensure_gl
from sim.model import FOLDED_DEG, World
from sim.offline_world import OfflineWorld, OfflineWorldError
from sim.tasks import HELD_OUT_PHRASINGS, KINDS, PHRASINGS, PUSH_TO_MARK, TOUCH, Task
from sim.variation import CUBE_COLOURS, Look, draw_variation

SIZE = (96, 72)


@pytest.fixture(scope="module")
def off_screen_gl():
    try:
        ensure_gl()
    except GlError as error:
        pytest.skip(f"pictures cannot be rendered: {error}")


@pytest.fixture(scope="module")
def world():
    return OfflineWorld(size=SIZE, depth=True)


def raise_arm(world, ticks):
    """Lift the upper arm and turn the pan, gently; return the verdicts."""
    goal, verdicts = world.goal.copy(), []
    for tick in range(ticks):
        goal[:3] += min(1.0, 0.15 * tick) * np.array([0.5, 1.0, -1.0])
        verdicts.append(world.step(goal))
    return verdicts


def test_the_arm_is_armed_where_it_lies_and_follows_goals_that_pass_the_gate(world):
    world.reset(3)
    np.testing.assert_allclose(world.state()[:5], FOLDED_DEG[:5], atol=1.0)
    begin_s = world.now_s
    verdicts = raise_arm(world, 30)
    assert {verdict.finding.outcome for verdict in verdicts} == {Outcome.PASS}
    assert world.now_s - begin_s == pytest.approx(1.0)
    lag_deg = world.goal - world.state()
    assert np.abs(lag_deg[:3]).max() < 8.0
    assert world.state()[1] > FOLDED_DEG[1] + 12.0
    assert world.state().dtype == np.float32


def test_a_goal_the_gate_refuses_is_clamped_and_the_sent_one_is_told(world):
    world.reset(3)
    wild = world.goal.copy()
    wild[0] += 80.0
    verdict = world.step(wild)
    assert verdict.finding.outcome is Outcome.CLAMP
    np.testing.assert_array_equal(world.goal, verdict.goal)
    assert world.goal[0] < 2.0


def test_the_same_goals_lead_to_the_same_states_whatever_was_before(world):
    world.reset(5)
    raise_arm(world, 20)
    first = world.state()
    world.reset(7, variation=draw_variation(1))
    raise_arm(world, 9)
    world.reset(5, variation=draw_variation(2))
    raise_arm(world, 20)
    np.testing.assert_array_equal(world.state(), first)


def test_the_layout_of_a_seed_is_that_of_the_demo_world(world):
    world.reset(11)
    for cube, spot_m in World(11).truth().cubes_m.items():
        np.testing.assert_allclose(world.truth().cubes_m[cube], spot_m, atol=1e-4)


@pytest.mark.usefixtures("off_screen_gl")
def test_the_plain_pictures_are_those_of_the_camera_process(world, tmp_path):
    from edge.frame_file import FrameFile
    from sim.camera_process import CameraProcess, frame_path

    world.reset(3)
    cameras = CameraProcess(tmp_path, world.world.data.qpos.copy(), size=SIZE)
    try:
        seen = world.observe()
        for name, image in zip(CAMERA_NAMES, seen.images, strict=True):
            frames = FrameFile.open(frame_path(tmp_path, name))
            np.testing.assert_array_equal(frames.latest()[0], image)
            frames.close()
    finally:
        cameras.close()


@pytest.mark.usefixtures("off_screen_gl")
def test_depth_is_the_distance_to_the_desk_along_the_optical_axis(world):
    world.reset(3)
    depth_m = world.observe().depth_mm / 1000.0
    model, data = world.world.model, world.world.data
    camera = model.camera("front").id
    height, width = depth_m.shape
    focal_px = height / 2.0 / np.tan(np.deg2rad(model.cam_fovy[camera]) / 2.0)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack(
        [(columns - width / 2) / focal_px, (height / 2 - rows) / focal_px, -np.ones_like(rows)], -1
    )
    origin_m = data.cam_xpos[camera]
    directions = rays @ data.cam_xmat[camera].reshape(3, 3).T
    with np.errstate(divide="ignore"):
        expected_m = np.where(directions[..., 2] < 0, -origin_m[2] / directions[..., 2], np.inf)
    hits_m = origin_m + expected_m[..., None] * directions
    on_desk = (np.abs(hits_m[..., 0] - 0.15) < 0.41) & (np.abs(hits_m[..., 1]) < 0.61)
    assert (depth_m[on_desk] < expected_m[on_desk] + 0.002).all(), "nothing lies below the desk"
    free = np.abs(depth_m - expected_m) < 0.002
    assert free[on_desk].mean() > 0.6
    # What stands on the desk is nearer than the desk behind it.
    assert (depth_m[on_desk & ~free] < expected_m[on_desk & ~free]).all()


@pytest.mark.usefixtures("off_screen_gl")
def test_a_variation_changes_every_picture_and_none_brings_the_plain_one_back(world):
    world.reset(4)
    plain = world.observe()
    world.reset(4, variation=draw_variation(9))
    varied = world.observe()
    world.reset(4)
    again = world.observe()
    for before, other, after in zip(plain.images, varied.images, again.images, strict=True):
        assert np.abs(other.astype(int) - before).mean() > 3.0
        np.testing.assert_array_equal(after, before)


def test_a_variation_is_looks_only():
    model = World().model
    masses, frictions = model.body_mass.copy(), model.geom_friction.copy()
    sizes, places = model.geom_size.copy(), model.geom_pos.copy()
    Look(model).apply(draw_variation(3))
    for now, before in (
        *((model.body_mass, masses), (model.geom_friction, frictions)),
        *((model.geom_size, sizes), (model.geom_pos, places)),
    ):
        np.testing.assert_array_equal(now, before)


def test_variations_differ_and_their_cubes_have_names_of_their_own():
    drawn = [draw_variation(seed) for seed in range(60)]
    assert drawn[7] == draw_variation(7)
    assert len({variation.brightness for variation in drawn}) == len(drawn)
    assert {colour for v in drawn for colour in v.cube_colours} == set(CUBE_COLOURS)
    assert all(len(set(variation.cube_colours)) == 3 for variation in drawn)


def test_the_mark_is_drawn_only_for_a_push(world):
    group = world.world.model.site("mark").group
    world.reset(3, task=Task(PUSH_TO_MARK, "green"))
    assert group[0] == 2
    green_m = world.truth().cubes_m["green_cube"][:2]
    assert 0.06 < np.hypot(*(world.mark_m - green_m)) < 0.14
    world.reset(3, task=Task(TOUCH, "green"))
    assert group[0] == 4


def test_a_colour_that_is_not_there_is_refused(world):
    with pytest.raises(OfflineWorldError, match="no purple cube lies on the desk; there are: red"):
        world.reset(3, task=Task(TOUCH, "purple"))


def test_a_push_without_a_free_way_is_refused(world, monkeypatch):
    monkeypatch.setattr("sim.offline_world.mark_of", lambda *_: None)
    with pytest.raises(OfflineWorldError, match="layout 3 has no free way to push the red cube"):
        world.reset(3, task=Task(PUSH_TO_MARK, "red"))


def test_phrasings_for_evaluation_are_none_of_those_for_training():
    for kind in KINDS:
        assert not set(PHRASINGS[kind]) & set(HELD_OUT_PHRASINGS[kind])
        task = Task(kind, "red")
        assert all("red" in task.instruction(number) for number in range(6))
        assert task.instruction(0) != task.instruction(0, held_out=True)


@pytest.mark.usefixtures("off_screen_gl")
def test_a_moment_is_drawn_once_and_the_next_one_anew(world):
    world.reset(5, task=Task("touch", "red"))
    first = world.observe()
    assert world.observe() is first
    world.judge(Task("push_to_mark", "red"))
    assert not np.array_equal(world.observe().images[0], first.images[0]), "the mark is to be seen"
    before = world.observe()
    goal = world.goal.copy()
    goal[0] += 5.0
    for _ in range(10):
        world.step(goal)
    after = world.observe()
    assert after.t_s > before.t_s
    assert not np.array_equal(after.images[0], before.images[0])
