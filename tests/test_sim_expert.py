"""The scripted expert does its tasks in physics, from wherever it starts."""

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from edge.verdict import Outcome, Rule
from sim.demonstration import (
    AFTER,
    FOLDED,
    MISSED,
    SOMEWHERE,
    Disturbance,
    Plan,
    demonstrate,
    draw_plan,
    prepare,
)
from sim.expert import Expert
from sim.hand import HAND_TWIST_DEG, joints_for_hand_deg
from sim.layout import BIN_M
from sim.motion import MAX_ACCELERATION, MAX_VELOCITY, glide
from sim.offline_world import Observation, OfflineWorld
from sim.reach import PAN_AXIS_X_M
from sim.tasks import (
    FIRST_TRAINING_LAYOUT,
    HELD_OUT_PHRASINGS,
    KINDS,
    PHRASINGS,
    PUSH_TO_MARK,
    PUT_IN_BIN,
    TOUCH,
    Task,
)
from sim.variation import draw_variation


@pytest.fixture(scope="module")
def world():
    """A world that draws no pictures: physics is what is tested here."""
    world = OfflineWorld()
    world.observe = lambda: Observation(world.now_s, (None, None), world.state(), None)
    return world


@pytest.mark.parametrize(
    ("kind", "colour", "seed"),
    [
        (TOUCH, "red", 101),
        (TOUCH, "blue", 102),
        (PUT_IN_BIN, "green", 103),
        (PUT_IN_BIN, "red", 104),
        (PUSH_TO_MARK, "green", 105),
        (PUSH_TO_MARK, "blue", 108),
    ],
)
def test_the_expert_succeeds_on_held_out_layouts_within_the_gates_limits(world, kind, colour, seed):
    task = Task(kind, colour)
    world.reset(seed, task=task)
    bent = set()
    for goal in Expert(world, task, np.random.default_rng(seed)).goals():
        verdict = world.step(goal)
        if verdict.outcome is not Outcome.PASS:
            bent.add((verdict.rule, verdict.joint))
    assert world.succeeded
    # Jaws that turn a cube press on it as far as they may.
    assert bent <= ({(Rule.LEAD, "gripper")} if kind == PUT_IN_BIN else set())


def test_a_cube_that_slips_out_of_the_hand_is_picked_up_again(world):
    task = Task(PUT_IN_BIN, "blue")
    world.reset(111, task=task)
    expert = Expert(world, task, np.random.default_rng(0))
    slipped = False
    for goal in expert.goals():
        world.step(goal)
        if not slipped and world.truth().cubes_m["blue_cube"][2] > 0.05:
            spot = world.world.data.joint("blue_cube").qpos
            spot[:3], slipped = [0.22, 0.08, 0.014], True
    assert slipped
    assert world.succeeded
    assert expert.attempts == 2


def test_a_demonstration_after_a_miss_starts_low_beside_the_cube(world):
    plan = Plan(Task(PUT_IN_BIN, "red"), "put it away", 104, None, MISSED, 1.0, (0, 1, 2))
    episode = demonstrate(world, plan)
    assert episode.succeeded
    assert episode.states[0, 5] < 10.0, "the hand is closed on nothing"
    assert episode.actions.shape == episode.states.shape == (len(episode.states), 6)
    assert episode.actions.dtype == np.float32


@pytest.mark.parametrize(("kind", "seed"), [(TOUCH, 101), (PUT_IN_BIN, 104), (PUSH_TO_MARK, 105)])
def test_a_demonstration_ends_when_the_task_is_done(world, monkeypatch, kind, seed):
    """Nobody sees the arm stay where it is."""
    plan = Plan(
        Task(kind, "red" if kind != PUSH_TO_MARK else "green"), "", seed, None, FOLDED, 0.0, (0,)
    )
    done, step = [], world.step
    monkeypatch.setattr(world, "step", lambda goal: (step(goal), done.append(world.succeeded))[0])
    episode = demonstrate(world, plan)
    assert episode.succeeded
    assert len(done) == len(episode.actions)
    assert done.count(True) == 1


def test_the_disturbance_is_sent_but_not_recorded(world, monkeypatch):
    plan = Plan(Task(TOUCH, "red"), "touch it", 101, None, FOLDED, 1.3, (4, 5, 6))
    sent, step = [], world.step
    monkeypatch.setattr(world, "step", lambda goal: sent.append(goal) or step(goal))
    episode = demonstrate(world, plan)
    off_deg = np.abs(np.array(sent) - episode.actions)
    assert off_deg[:, :5].max() > 1.0
    assert off_deg[:, 5].max() < 1e-4, "the gripper is left alone"
    # Near the cube it is calm again.
    assert off_deg[-1].max() < 1e-3
    # The recorded goals are smooth as the expert's are.
    assert np.abs(np.diff(episode.actions, 2, axis=0)).max() * 30**2 < 600.0


def test_a_demonstration_is_a_function_of_its_plan(world):
    plan = Plan(Task(TOUCH, "red"), "touch it", 101, 5, SOMEWHERE, 1.0, (3, 0, 0))
    first = demonstrate(world, plan)
    world.reset(9, variation=draw_variation(8))
    again = demonstrate(world, plan)
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.actions, again.actions)


def test_the_referee_wants_the_right_cube_and_the_others_left_alone(world):
    task = Task(PUT_IN_BIN, "red")
    qpos = {name: world.world.data.joint(f"{name}_cube").qpos for name in ("red", "green")}
    hold = np.zeros(6)
    world.reset(101, task=task)
    qpos["green"][:3] = [*BIN_M, 0.02]
    for _ in range(12):
        world.step(world.goal + hold)
    assert world.referee.disturbed
    qpos["red"][:3] = [*BIN_M, 0.06]
    for _ in range(30):
        world.step(world.goal + hold)
    assert not world.succeeded
    world.reset(101, task=task)
    qpos["red"][:3] = [*BIN_M, 0.02]
    for _ in range(30):
        world.step(world.goal + hold)
    assert world.succeeded


def test_plans_of_training_and_of_evaluation_have_nothing_in_common():
    for number in range(30):
        plan = draw_plan(0, number)
        assert plan == draw_plan(0, number)
        kind = KINDS[number % 3]
        assert plan.task.kind == kind
        assert plan.layout_seed >= FIRST_TRAINING_LAYOUT
        phrasings = [text.format(colour=plan.task.colour) for text in PHRASINGS[kind]]
        assert plan.instruction in phrasings
        other = draw_plan(0, number, held_out=True)
        assert other.layout_seed < FIRST_TRAINING_LAYOUT
        phrasings = [text.format(colour=other.task.colour) for text in HELD_OUT_PHRASINGS[kind]]
        assert other.instruction in phrasings
    assert draw_plan(0, 0, 1) != draw_plan(0, 0, 0)
    assert draw_plan(0, 0, varied=False).variation_seed is None


def test_a_start_after_another_task_is_with_another_cube_and_nothing_done_yet(world):
    starts = {FOLDED: 0.0, SOMEWHERE: 0.0, MISSED: 0.0, AFTER: 1.0}
    for number in (0, 2):
        plan = draw_plan(4, number, kinds=KINDS, varied=False, starts=starts)
        assert plan.start == AFTER
        world.reset(plan.layout_seed, task=plan.task)
        cubes_m, folded = world.truth().cubes_m, world.state()
        assert prepare(world, plan, np.random.default_rng(number))
        assert np.abs(world.state() - folded).max() > 10.0
        assert not world.succeeded
        own = world.cubes[plan.task.colour]
        np.testing.assert_allclose(world.truth().cubes_m[own], cubes_m[own], atol=0.005)


@pytest.mark.parametrize("seed", range(8))
def test_a_glide_keeps_its_limits_and_ends_at_rest_at_its_last_waypoint(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-60.0, 60.0, (3, 6))
    speed = rng.uniform(0.5, 1.0)
    plan = glide(points[0], points[1:], speed)
    times_s = np.arange(0.0, plan.duration_s + 0.02, 0.01)
    path = np.array([plan.at(t_s) for t_s in times_s])
    np.testing.assert_allclose(path[0], points[0])
    np.testing.assert_allclose(path[-1], points[2], atol=1e-9)
    velocity = np.abs(np.diff(path, axis=0)) / 0.01
    acceleration = np.abs(np.diff(path, 2, axis=0)) / 0.01**2
    assert (velocity <= MAX_VELOCITY * speed * 1.02).all()
    assert (acceleration <= MAX_ACCELERATION * speed * 1.05).all()


@pytest.mark.parametrize("roll_deg", [-75.0, 0.0, 20.0])
def test_the_hand_is_at_the_spot_asked_for_and_opens_outwards_turned_by_its_roll(world, roll_deg):
    import mujoco

    model, data = world.world.model, world.world.data
    spot_m = np.array([0.22, 0.06, 0.05])
    joints_deg = joints_for_hand_deg(spot_m, roll_deg, -0.0079)
    data.qpos[world.world.joint_qpos[:5]] = np.deg2rad(joints_deg)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.site("tip").xpos, spot_m, atol=0.002)
    opening = data.body("gripper").xmat.reshape(3, 3)[:2, 0]
    opening_rad = np.arctan2(spot_m[1], spot_m[0] - PAN_AXIS_X_M)
    opening_rad += np.deg2rad(roll_deg - HAND_TWIST_DEG)
    wanted = np.array([np.cos(opening_rad), np.sin(opening_rad)])
    assert opening @ wanted / np.linalg.norm(opening) > np.cos(np.deg2rad(3.0))


def test_a_disturbance_wanders_smoothly_about_zero():
    disturbance = Disturbance(np.random.default_rng(0), 1.0, 30.0)
    wander = np.array([disturbance.next() for _ in range(900)])
    assert (np.abs(np.diff(wander, axis=0)).max(axis=0) * 30 < 60.0).all()
    assert (np.abs(np.diff(wander, 2, axis=0)).max(axis=0) * 900 < 400.0).all()
    assert 0.5 < wander[:, 0].std() < 3.0
    assert (wander[:, 5] == 0.0).all()
