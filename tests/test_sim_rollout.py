"""Trials in the closed loop, forks of the world, an expert that goes on with another's work."""

import itertools

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from edge.joint_frame import JointFrame
from edge.pace import Effort, Pace
from edge.policy import Policy, PolicyResult
from edge.profile import load_profile
from sim.demonstration import FOLDED, draw_plan
from sim.expert import Expert
from sim.offline_world import Observation, OfflineWorld
from sim.reach import PAN_AXIS_X_M
from sim.rollout import Driver, RolloutSettings, draw_trials, lay_out, run_trial
from sim.tasks import (
    FIRST_TRAINING_LAYOUT,
    HELD_OUT_PHRASINGS,
    KINDS,
    PUSH_TO_MARK,
    PUT_IN_BIN,
    TOUCH,
    Task,
)
from sim.variation import draw_lights
from sim.visits import (
    HORIZON,
    advice,
    visit_beginnings,
    visit_expert,
    visit_policy,
    visit_recoveries,
)

TICKS_A_CHUNK = 15
LATENCY_TICKS = 3


@pytest.fixture(scope="module")
def world():
    """A world that draws no pictures: physics is what is tested here."""
    world = OfflineWorld()
    world.observe = lambda: Observation(world.now_s, (None, None), world.state(), None)
    return world


def do_it_in_chunks(world, trial, limit_s=25.0):
    """Follow the expert's chunks as a policy's are followed: asked anew every half second."""
    lay_out(world, trial)
    task, rng = Task(trial.kind, trial.colour), np.random.default_rng(trial.seed)
    chunk = fresh = advice(world, task, rng)
    tick = began = 0
    while not world.succeeded and world.now_s < limit_s:
        if tick and tick % TICKS_A_CHUNK == 0:
            fresh, asked = advice(world, task, rng), tick
        if tick and tick % TICKS_A_CHUNK == LATENCY_TICKS and tick > LATENCY_TICKS:
            chunk, began = fresh, asked
        world.step(chunk[min(tick - began, HORIZON - 1)])
        tick += 1
    return world.succeeded


@pytest.mark.parametrize(("kind", "number"), [(TOUCH, 0), (PUT_IN_BIN, 1)])
def test_the_experts_advice_asked_anew_all_the_time_gets_the_task_done(world, kind, number):
    assert do_it_in_chunks(world, draw_trials(6, 1, (TOUCH, PUT_IN_BIN))[number])


def test_advice_leaves_the_world_as_it_is_and_foresees_what_happens(world):
    task = Task(TOUCH, "red")
    world.reset(101, task=task)
    before = world.world.data.qpos.copy(), world.state(), world.now_s
    chunk = advice(world, task, np.random.default_rng(0))
    assert np.array_equal(world.world.data.qpos, before[0])
    assert np.array_equal(world.state(), before[1])
    assert world.now_s == before[2]
    expert = Expert(world, task, np.random.default_rng(0)).goals()
    for goal in chunk:
        assert np.allclose(next(expert), goal, atol=1e-4)
        world.step(goal)


def test_a_fork_goes_the_same_way_until_it_is_sent_elsewhere(world):
    world.reset(7, task=Task(TOUCH, "green"))
    goals = [world.goal + step * 0.3 for step in range(1, 12)]
    fork = world.fork()
    for goal in goals:
        world.step(goal)
        fork.step(goal)
    assert np.array_equal(world.world.data.qpos, fork.world.data.qpos)
    assert np.array_equal(world.state(), fork.state())
    fork.step(goals[-1] + 3.0)
    world.step(goals[-1])
    assert not np.array_equal(world.state(), fork.state())
    assert fork.referee is not world.referee


def test_a_hand_around_the_cube_closes_instead_of_going_up_again(world):
    task = Task(PUT_IN_BIN, "green")
    world.reset(103, task=task)
    heights_m = []
    for goal in Expert(world, task, np.random.default_rng(103)).goals():
        world.step(goal)
        heights_m.append(world.truth().tip_m[2])
        if len(heights_m) > 90 and heights_m[-1] < 0.02:
            break
    chunk = advice(world, task, np.random.default_rng(1))
    assert chunk[-1][5] < chunk[0][5] - 5.0  # percent of opening
    assert np.abs(chunk[:10, 1:4] - chunk[0, 1:4]).max() < 2.0


def test_visits_of_a_demonstration_hold_the_goals_that_followed(world):
    plan = draw_plan(3, 0, kinds=(TOUCH,), light_only=True, starts={FOLDED: 1.0})
    visits = visit_expert(world, plan, 5)
    assert visits.episode.succeeded
    assert visits.episode.seen_ticks == list(range(0, len(visits.episode.actions), 5))
    assert visits.chunks.shape == (len(visits.states), HORIZON, 6)
    assert np.array_equal(visits.chunks[1][:25], visits.chunks[0][5:])
    assert np.array_equal(visits.chunks[-1][-1], visits.episode.actions[-1])
    assert np.array_equal(visits.chunks[2][0], visits.episode.actions[10])


def test_other_tasks_are_asked_for_with_what_the_expert_would_do_for_them(world, monkeypatch):
    plan = draw_plan(3, 0, kinds=(PUT_IN_BIN,), light_only=True)
    own, visits = visit_expert(world, plan, 10), visit_expert(world, plan, 10, other_tasks=0.9)
    assert len(visits.instructions) == len(visits.chunks) == len(visits.states)
    np.testing.assert_array_equal(visits.states, own.states)  # the arm does the same
    others = [at for at, words in enumerate(visits.instructions) if words != plan.instruction]
    kept = sorted({*range(len(visits.states))} - {*others})
    assert len(others) >= 3
    np.testing.assert_array_equal(visits.chunks[kept], own.chunks[kept])
    apart_deg = np.abs(visits.chunks[others] - own.chunks[others])[:, -1].max(axis=1)
    assert np.median(apart_deg) > 5.0
    # With a cube in the hand there is but one thing to do.
    monkeypatch.setattr(world, "holds_a_cube", lambda: True)
    assert set(visit_expert(world, plan, 10, other_tasks=0.9).instructions) == {plan.instruction}


def test_at_a_beginning_every_cube_is_asked_for_with_the_same_picture(world):
    plan = draw_plan(4, 0, kinds=(TOUCH,), light_only=True)
    visits = visit_beginnings(world, plan, 30)
    assert visits.episode.plan.disturbance == 0.0  # what is noted of it is what was done
    at_once, apart_deg = len(world.cubes), []
    assert visits.episode.succeeded
    assert len(visits.states) >= 2 * at_once
    for first in range(0, len(visits.states), at_once):
        same = slice(first, first + at_once)
        told = visits.instructions[same]
        assert [colour for words in told for colour in world.cubes if colour in words] == [
            *world.cubes
        ]
        assert len({state.tobytes() for state in visits.states[same]}) == 1
        assert len({*visits.episode.seen_ticks[same]}) == 1
        pairs = itertools.combinations(visits.chunks[same, -1], 2)
        apart_deg += [np.abs(one - other).max() for one, other in pairs]
    assert np.median(apart_deg) > 5.0


def test_a_recovery_begins_beside_the_cube_and_its_chunk_leads_to_it(world):
    """Where the hand is says little about where the cube is: else nobody would have to look."""
    places, off_m, left_m = 0, [], []
    looked = world.observe

    def observe():
        """Note how far the named cube is to the side of the hand, as the arm's base sees it."""
        truth = world.truth()
        cube_m = truth.cubes_m[world.cubes[world.referee.task.colour]]
        (x_m, y_m), (dx_m, dy_m) = (
            np.subtract(to_m[:2], from_m[:2])
            for from_m, to_m in (([PAN_AXIS_X_M, 0.0], truth.tip_m), (truth.tip_m, cube_m))
        )
        aside_m.append((x_m * dy_m - y_m * dx_m) / np.hypot(x_m, y_m))
        return looked()

    for number in range(4):
        aside_m = []
        world.observe = observe
        try:
            plan = draw_plan(5, number, kinds=(TOUCH,), light_only=True)
            visits = visit_recoveries(world, plan, 6)
        finally:
            world.observe = looked
        ticks = visits.episode.seen_ticks
        assert len(ticks) == len(visits.states) == len(visits.chunks) == len(visits.instructions)
        begun = [moment for moment, tick in enumerate(ticks) if tick == 0]
        places += len(begun)
        off_m += [aside_m[moment] for moment in begun]
        left_m += [aside_m[moment] for moment in [*(np.array(begun[1:]) - 1), -1]]
        for first, end in itertools.pairwise([*begun, len(ticks)]):
            assert ticks[first:end] == list(range(0, 6 * (end - first), 6))
            assert len({*visits.instructions[first:end]}) == 1
            for moment in range(first, end - 1):
                goes_on = visits.chunks[moment + 1][: HORIZON - 6]
                assert np.array_equal(visits.chunks[moment][6:], goes_on)
    assert places >= 12
    assert np.median(np.abs(off_m)) > 0.015
    assert np.median(np.abs(left_m)) < 0.4 * np.median(np.abs(off_m))


def test_trials_are_held_out_and_a_function_of_their_seed():
    trials = draw_trials(30, 5, KINDS)
    assert trials == draw_trials(30, 5, KINDS)
    assert trials != draw_trials(30, 6, KINDS)
    assert [trial.kind for trial in trials[:3]] == list(KINDS)
    assert all(trial.layout_seed < FIRST_TRAINING_LAYOUT for trial in trials)
    for trial in trials:
        words = [text.format(colour=trial.colour) for text in HELD_OUT_PHRASINGS[trial.kind]]
        assert trial.instruction in words
    assert {trial.colour for trial in trials} == {"red", "green", "blue"}
    training = draw_trials(9, 5, KINDS, held_out=False)
    assert all(trial.layout_seed >= FIRST_TRAINING_LAYOUT for trial in training)
    assert not {t.instruction for t in training} & {t.instruction for t in trials}


def test_light_alone_leaves_things_and_cameras_where_they_are():
    first, other = draw_lights(1), draw_lights(2)
    assert first == draw_lights(1)
    assert first.cameras == other.cameras
    assert first.brightness != other.brightness
    assert first.cube_colours == ("red", "green", "blue")


class Advised:
    """Stands where a policy does, and knows the world: says what the expert would do."""

    def __init__(self, world, policy, colour=None):
        self.bundle, self._world, self._colour = policy.bundle, world, colour
        self._rng = np.random.default_rng(0)
        self.asked = []

    def reset(self):
        """Nothing is remembered."""

    def act(self, images, task, state, norm_tag, **options):
        self.asked.append((task, options["committed"]))
        told = self._world.referee.task
        wanted = told if self._colour is None else Task(told.kind, self._colour)
        arm = load_profile("sim").arm
        chunk = advice(self._world, wanted, self._rng)
        actions = JointFrame(arm.signs, arm.offsets_deg).model_from_arm(chunk)
        return PolicyResult(actions.astype(np.float32), None, {}, 0, 0, 0, 0, None)


@pytest.fixture(scope="module")
def policy(bundles):
    return Policy.open(bundles("two_cameras", "fp32"), "sim")


def test_a_trial_is_judged_by_physics_and_names_the_cube_that_was_meant(world, policy):
    trial = draw_trials(1, 2, (TOUCH,))[0]
    done = run_trial(world, Advised(world, policy), trial, RolloutSettings())
    assert done.succeeded
    assert done.done_colour == trial.colour
    assert done.calls == pytest.approx(done.time_s / 0.5, abs=2)
    other = next(colour for colour in ("red", "green") if colour != trial.colour)
    wrong = run_trial(world, Advised(world, policy, other), trial, RolloutSettings())
    assert not wrong.succeeded
    assert wrong.done_colour == other


def test_calls_are_held_to_what_the_arm_does_meanwhile_unless_told_not_to(world, policy):
    trial = draw_trials(1, 2, (PUSH_TO_MARK,))[0]
    held, free = Advised(world, policy), Advised(world, policy)
    run_trial(world, held, trial, RolloutSettings(limit_s=3.0))
    run_trial(world, free, trial, RolloutSettings(limit_s=3.0, chunking=False))
    assert held.asked[0][1] is None
    assert all(committed is not None for _, committed in held.asked[1:])
    assert all(committed is None for _, committed in free.asked)
    assert {task for task, _ in held.asked} == {trial.instruction}


class Stubborn(Advised):
    """Does what the expert would do for another cube, and notes how it is asked for depth."""

    depths = frozenset()

    def act(self, images, task, state, norm_tag, **options):
        self.depths |= {options["depth"]}
        return super().act(images, task, state, norm_tag, **options)


def test_where_a_policy_brings_itself_the_expert_says_what_it_would_do_there(world, policy):
    plan = draw_plan(6, 0, kinds=(TOUCH,), light_only=True, starts={FOLDED: 1.0})
    other = next(colour for colour in world.cubes if colour != plan.task.colour)
    stubborn = Stubborn(world, policy, other)
    settings = RolloutSettings(limit_s=4.0, depth="incremental")
    visits = visit_policy(world, plan, stubborn, 10, settings)
    assert stubborn.depths == {"incremental"}
    assert not visits.episode.succeeded
    assert visits.episode.seen_ticks == list(range(0, 10 * len(visits.states), 10))
    assert len(visits.states) == len(visits.chunks) == 13
    assert set(visits.instructions) == {plan.instruction}
    rng = np.random.default_rng(0)
    wanted, done = (
        advice(world, Task(TOUCH, colour), rng)[-1, 0] for colour in (plan.task.colour, other)
    )
    told, there = visits.chunks[-1, -1, 0], visits.states[-1, 0]
    assert abs(there - done) < abs(there - wanted)  # the pan: the policy drives, and went astray
    assert abs(told - wanted) < 0.2 * abs(told - done)


class Watched(Advised):
    """Also remembers when it was asked, on which pictures, and what it might spend."""

    def act(self, images, task, state, norm_tag, **options):
        self.asked.append((self._world.now_s, images, options["effort"]))
        asked, self.asked = self.asked, []
        answer = super().act(images, task, state, norm_tag, **options)
        self.asked = asked
        return answer


class Steady(Advised):
    """Gives the same chunk of goals (HORIZON, 6) always, and notes when it was asked."""

    def __init__(self, world, policy, goals):
        super().__init__(world, policy)
        self.times_s = []
        self._goals = goals

    def act(self, images, task, state, norm_tag, **options):
        self.times_s.append(self._world.now_s)
        arm = load_profile("sim").arm
        actions = JointFrame(arm.signs, arm.offsets_deg).model_from_arm(self._goals)
        return PolicyResult(actions.astype(np.float32), None, {}, 0, 0, 0, 0, None)


def goals_where_it_is(world, trial):
    lay_out(world, trial)
    return np.tile(world.goal, (HORIZON, 1))


def test_calls_and_chunks_come_at_the_tick_that_is_stated(world, policy, monkeypatch):
    trial = draw_trials(1, 2, (PUSH_TO_MARK,))[0]
    steady = Steady(world, policy, goals_where_it_is(world, trial) + 1.0)
    goals, goal = [], Driver.goal
    monkeypatch.setattr(
        Driver, "goal", lambda driver, world: (goals.append(goal(driver, world)), goals[-1])[1]
    )
    run_trial(world, steady, trial, RolloutSettings(limit_s=8.0, chunking=False))
    assert len(steady.times_s) == 16
    np.testing.assert_allclose(np.diff(steady.times_s) * world.rate_hz, TICKS_A_CHUNK)
    moved = np.abs(np.diff(goals, axis=0)).max(axis=1) > 0.0
    assert np.flatnonzero(moved)[0] + 1 == LATENCY_TICKS


def test_smoothness_is_of_the_body_and_unknown_without_a_seam(world, policy):
    trial = draw_trials(1, 2, (TOUCH,))[0]
    clapping = goals_where_it_is(world, trial)
    clapping[:, 5] = np.where(np.arange(HORIZON) % 12 < 6, 20.0, 60.0)
    once = RolloutSettings(limit_s=3.0, replan_s=3.0, chunking=False)
    result = run_trial(world, Steady(world, policy, clapping), trial, once)
    assert result.jerk < 1.0
    assert result.seam_velocity is None


@pytest.fixture
def numbered(world, monkeypatch):
    """Pictures that say when they were taken."""
    monkeypatch.setattr(
        world, "observe", lambda: Observation(world.now_s, (world.now_s,), world.state(), None)
    )
    return world


def test_pace_slows_calls_pictures_and_the_arm_and_reaches_the_policy(
    numbered, policy, monkeypatch
):
    trial = draw_trials(1, 2, (PUSH_TO_MARK,))[0]
    effort = Effort(flow_steps=5)
    pace = Pace(effort=effort, max_policy_hz=1.0, camera_hz=0.8, speed_share=0.25)
    speeds = []
    for settings in (RolloutSettings(limit_s=4.0), RolloutSettings(limit_s=4.0, pace=pace)):
        watched, goals, goal = Watched(numbered, policy), [], Driver.goal
        with monkeypatch.context() as patch:
            patch.setattr(
                Driver,
                "goal",
                lambda driver, world, goal=goal, sent=goals: (
                    sent.append(world.goal.copy()),
                    goal(driver, world),
                )[1],
            )
            run_trial(numbered, watched, trial, settings)
        speeds.append(np.abs(np.diff(goals, axis=0)).max(axis=0) * numbered.rate_hz)
    times, pictures, efforts = zip(*watched.asked, strict=True)
    assert set(efforts) == {effort}
    assert np.diff(times).min() >= 1.0 - 0.05
    ages = np.array(times) - np.array([images[0] for images in pictures])
    assert 0.2 < ages.max() <= 1.25
    limits = np.array([joint.max_velocity for joint in load_profile("sim").arm.joints])
    assert (speeds[1] <= 0.25 * limits + 1e-6).all()
    assert (speeds[0] > 0.25 * limits).any()
