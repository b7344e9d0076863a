import dataclasses

import numpy as np
import pytest
from conftest import REFERENCE, load_cases

from edge.errors import ObservationError
from edge.inpainting import HeldActions
from edge.normalization import parse_tags
from edge.policy import Policy

DIM = 2
NANO = REFERENCE.parent.parent / "checkpoints" / "nano"
CASE = load_cases("two_cameras")[0]


def tag(mode="q01_q99", mask=None, n_obs_steps=1):
    stats = {"q01": [-10.0, -10.0], "q99": [10.0, 10.0], "mean": [1.0, 2.0], "std": [2.0, 0.0]}
    robot = {
        "action_horizon": 6,
        "n_action_steps": 5,
        "action_stats": {**stats, "mask": mask},
        "state_stats": stats,
    }
    payload = {"norm_mode": mode, "metadata_by_tag": {"arm": robot}}
    return parse_tags(payload, 6, 4, n_obs_steps)["arm"]


def integrate(held, velocity_at, noise, steps=4):
    """Euler as the policy does it; returns the flow's end and where it was at every step."""
    actions, path = noise.copy(), []
    for index in range(steps):
        path.append(actions.copy())
        velocity = held.steer(velocity_at(actions, index / steps), actions, 1 - index / steps)
        actions = actions + np.float32(1 / steps) * velocity
    return actions, path


def toward(goal):
    """The velocity of a model that is sure of `goal`, whatever it sees."""
    return lambda actions, t: ((goal - actions) / (1 - t)).astype(np.float32)


NOISE = np.random.default_rng(0).standard_normal((1, 6, 4)).astype(np.float32)


def test_held_actions_stay_on_the_line_from_their_noise_to_their_value():
    committed = np.array([[1.0, -5.0], [2.0, 4.0]])
    held = HeldActions(committed, None, tag(), n_obs_steps=1)
    end, path = integrate(held, toward(np.float32(0.9)), NOISE)
    for index, actions in enumerate(path):
        t = index / len(path)
        line = (1 - t) * NOISE[0, :2, :DIM] + t * committed / 10
        np.testing.assert_allclose(actions[0, :2, :DIM], line, atol=1e-6)
    np.testing.assert_allclose(end[0, :2, :DIM], committed / 10, atol=1e-6)
    np.testing.assert_allclose(end[0, 2:], 0.9, atol=1e-6)
    np.testing.assert_allclose(end[0, :2, DIM:], 0.9, atol=1e-6)  # dims the robot has not


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_weight_is_the_share_of_the_given_action_however_many_steps_there_are(steps):
    committed = np.full((3, DIM), 5.0)
    held = HeldActions(committed, np.array([1.0, 0.25, 0.0]), tag(), 1)
    end, _ = integrate(held, toward(np.float32(-0.5)), NOISE, steps)
    np.testing.assert_allclose(end[0, :3, :DIM], [[0.5, 0.5], [-0.25, -0.25], [-0.5, -0.5]], 1e-5)


def test_engine_keeps_its_own_velocity():
    velocity = np.zeros((1, 6, 4), np.float32)
    velocity.setflags(write=False)
    HeldActions(np.ones((2, DIM)), None, tag(), 1).steer(velocity, NOISE, 1.0)
    assert not velocity.any()


def test_first_held_action_is_the_first_returned_one_when_past_actions_come_before():
    held = HeldActions(np.full((1, DIM), 3.0), None, tag(n_obs_steps=2), n_obs_steps=2)
    end, _ = integrate(held, toward(np.float32(-1.0)), NOISE)
    np.testing.assert_allclose(end[0, :3, 0], [-1.0, 0.3, -1.0], atol=1e-6)


@pytest.mark.parametrize(
    ("robot", "given", "said"),
    [
        (tag(), 25.0, 10.0),
        (tag(mask=[False, False]), 25.0, 1.0),  # passes through, but the release clips it
        (tag(mode="mean_std"), 25.0, (25.0, 2.0)),  # the second never moved in training
        (tag(mode="none"), 25.0, 25.0),
    ],
    ids=["range", "masked", "mean_std", "none"],
)
def test_action_the_checkpoint_cannot_say_is_held_to_the_nearest_it_can(robot, given, said):
    held = HeldActions(np.full((1, DIM), given), None, robot, 1)
    end, _ = integrate(held, toward(np.float32(0.0)), NOISE)
    np.testing.assert_allclose(robot.action.unnormalize(end[0, 0, :DIM]), said, rtol=1e-5)


@pytest.mark.parametrize(
    ("committed", "weights", "message"),
    [
        (np.zeros(2), None, r"committed has shape \(2,\); norm_tag 'arm' needs \(k, 2\)"),
        (np.zeros((2, 3)), None, r"committed has shape \(2, 3\)"),
        (np.zeros((6, 2)), None, r"committed has shape \(6, 2\).*k up to 5"),
        (np.array([[0, 0], [0, np.nan]]), None, r"committed\[1, 1\] is nan; .* finite"),
        (np.array([[-np.inf, 0.0]]), None, r"committed\[0, 0\] is -inf"),
        (np.full((1, 2), 1e300), None, r"committed\[0, 0\] is 1e\+300"),
        (np.zeros((2, 2)), np.ones(3), r"committed_weights has shape \(3,\); \(2,\) is needed"),
        (np.zeros((2, 2)), np.ones((2, 2)), r"committed_weights has shape \(2, 2\)"),
        (np.zeros((2, 2)), np.array([1.0, 1.5]), r"committed_weights\[1\] is 1.5"),
        (np.zeros((2, 2)), np.array([np.nan, 1.0]), r"committed_weights\[0\] is nan"),
    ],
)
def test_committed_actions_that_do_not_fit_are_refused_in_one_line(committed, weights, message):
    with pytest.raises(ObservationError, match=message) as error:
        HeldActions(committed, weights, tag(), 1)
    assert "\n" not in str(error.value)


def act(policy, **changes):
    return policy.act(
        CASE.images, "lift", CASE.arrays["state"], noise=CASE.arrays["noise"], **changes
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"committed": "left"}, "committed is .* an array of numbers"),
        ({"committed": [[0.0] * 6, [0.0]]}, "committed is .* an array of numbers"),
        ({"committed_weights": [1.0]}, "committed_weights without committed"),
    ],
)
def test_policy_refuses_what_are_no_committed_actions(bundles, changes, message):
    with pytest.raises(ObservationError, match=message):
        act(Policy.open(bundles()), **changes)


def test_held_chunk_begins_with_the_committed_actions_and_goes_on_differently(bundles):
    policy = Policy.open(bundles())
    free = act(policy).actions
    spread = np.ptp(free, axis=0)
    committed = (free[:3] + 0.2 * spread).astype(np.float64)
    chunk = act(policy, committed=committed).actions
    assert chunk.shape == free.shape
    assert np.isfinite(chunk).all()
    robot = policy.bundle.tags["so100_so101_molmoact2"].action
    said = robot.unnormalize(robot.normalize(committed))  # a random model asks for its limits
    np.testing.assert_allclose(chunk[:3], said, atol=1e-4)
    assert np.abs(chunk[3:] - free[3:]).max() > 1e-4


def test_held_chunks_of_the_shipped_model_stay_finite_and_near_what_holds_them(tmp_path):
    build = pytest.importorskip("quantization.build")
    build.build_bundle(NANO, tmp_path / "nano", "int4")
    policy = Policy.open(tmp_path / "nano")
    (robot,) = policy.bundle.tags.values()
    given = ([np.zeros((60, 80, 3), np.uint8)] * 2, "lift", np.zeros(6))
    shape = (1, 30, policy.bundle.manifest.model.max_action_dim)
    random, weights = np.random.default_rng(0), np.linspace(1.0, 0.0, 24) ** 2
    chunk = policy.act(*given, noise=random.standard_normal(shape)).actions
    for _ in range(5):  # each takes over from the last after 6 actions
        noise, committed = random.standard_normal(shape), chunk[6:]
        free = policy.act(*given, noise=noise).actions
        held = {"committed": committed, "committed_weights": weights}
        chunk = policy.act(*given, noise=noise, **held).actions
        np.testing.assert_allclose(chunk[0], committed[0], atol=1e-3)
        drawn = slice(0, np.count_nonzero(weights > 0.5))
        differs = np.abs(chunk[drawn] - committed[drawn]).mean()
        assert differs < 0.5 * np.abs(free[drawn] - committed[drawn]).mean()
        assert np.isfinite(chunk).all()
        assert ((chunk >= robot.action.low - 1e-3) & (chunk <= robot.action.high + 1e-3)).all()


def test_chunk_held_to_what_the_model_says_anyway_is_that_chunk(bundles):
    policy = Policy.open(bundles())
    free = act(policy).actions
    again = act(policy, committed=free[:2], committed_weights=np.zeros(2)).actions
    np.testing.assert_array_equal(again, free)
    nothing = act(policy, committed=np.zeros((0, free.shape[1]))).actions
    np.testing.assert_array_equal(nothing, free)


def test_model_sees_the_held_actions_on_their_line_and_the_padding_untouched(bundles):
    policy = Policy.open(bundles())
    engine, seen = policy._expert, []

    class Watched:
        def prepare(self, *inputs):
            engine.prepare(*inputs)

        def step(self, actions, index):
            seen.append(actions.copy())
            return engine.step(actions, index)

    policy._expert = Watched()
    robot = policy.bundle.tags["so100_so101_molmoact2"].action
    target = np.full((2, 6), 0.5, np.float32)
    target[1] = -0.5
    act(policy, committed=robot.unnormalize(target))
    target = robot.normalize(robot.unnormalize(target))
    noise = CASE.arrays["noise"]
    assert len(seen) == policy.bundle.manifest.model.flow_steps
    for index, actions in enumerate(seen):
        t = index / len(seen)
        line = (1 - t) * noise[0, :2, :6] + t * target
        np.testing.assert_allclose(actions[0, :2, :6], line, atol=1e-5)
        assert not actions[..., 6:].any()


def test_action_held_is_counted_from_the_first_returned_one(bundles):
    policy = Policy.open(bundles())
    policy._model = dataclasses.replace(policy._model, n_obs_steps=3)
    free = act(policy).actions
    chunk = act(policy, committed=free[1:2]).actions
    np.testing.assert_allclose(chunk[0], free[1], atol=1e-4)
