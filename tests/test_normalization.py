"""Robot units to model units and back, and statistics that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from edge.errors import BundleError, ObservationError
from edge.normalization import choose_tag, parse_tags

STATS = {
    "q01": [-10.0, 0.0, 5.0], "q99": [10.0, 100.0, 5.0], "min": [-20, 0, 5], "max": [20, 90, 5],
    "mean": [0, 50, 5], "std": [5, 20, 0.0], "mask": [True, False, True],
}  # fmt: skip


def payload(mode="q01_q99", stats=STATS, **fields):
    tag = {"action_stats": stats, "state_stats": stats, "n_action_steps": 4, **fields}
    return {"norm_mode": mode, "metadata_by_tag": {"arm": tag}}


def state_normalizer(mode="q01_q99", stats=STATS):
    return parse_tags(payload(mode, stats), 8, 32)["arm"].state


def test_quantile_range_maps_to_one_and_clips():
    values = state_normalizer().normalize(np.array([[-10, 0, 0], [10, 0, 0], [99, 0, 0]]))
    assert values[:, 0].tolist() == [-1, 1, 1]


def test_masked_dims_pass_through_and_constant_dims_are_zero():
    assert state_normalizer().normalize(np.array([0.0, 1234.0, 7.0])).tolist() == [0, 1234, 0]


@pytest.mark.parametrize("mode", ["q01_q99", "min_max", "mean_std", "none"])
def test_unnormalize_inverts_normalize_inside_the_range(mode):
    stats = {**STATS, "std": [5, 20, 1.0], "min": [-20, 0, 4], "q01": [-10, 0, 4]}
    stats["mask"] = None  # the release clips masked dims on the way back: no inverse there
    normalizer = state_normalizer(mode, stats)
    values = np.array([[1.5, 40.0, 4.5], [-9.0, 3.0, 4.1]], np.float32)
    back = normalizer.unnormalize(normalizer.normalize(values))
    np.testing.assert_allclose(back, values, rtol=1e-5)


@pytest.mark.parametrize("mode", ["q01_q99", "q10_q90", "min_max", "mean_std"])
def test_normalisation_is_the_references(mode):
    reference = pytest.importorskip(
        "lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2"
    )
    stats = {**STATS, "q10": [-5, 1, 5], "q90": [5, 80, 5]}
    theirs = reference._FeatureNormalizer.from_stats(stats, mode)
    ours = state_normalizer(mode, stats)
    values = np.random.default_rng(0).normal(0, 30, (50, 3)).astype(np.float32)
    np.testing.assert_array_equal(ours.normalize(values), theirs.normalize(values))
    np.testing.assert_array_equal(ours.unnormalize(values), theirs.unnormalize(values))


def test_the_only_tag_may_be_left_out_and_an_unknown_one_is_named():
    tags = parse_tags(payload(), 8, 32)
    assert choose_tag(tags, None).name == "arm"
    with pytest.raises(ObservationError, match=r"norm_tag 'libero' is unknown; .* has arm"):
        choose_tag(tags, "libero")
    with pytest.raises(ObservationError, match="norm_tag is missing and the bundle has 2"):
        choose_tag({**tags, "other": tags["arm"]}, None)


def test_past_steps_and_action_steps_must_fit_the_horizon():
    assert parse_tags(payload(), 8, 32, n_obs_steps=5)["arm"].n_action_steps == 4
    with pytest.raises(BundleError, match="n_action_steps 4 after n_obs_steps 6 exceed"):
        parse_tags(payload(), 8, 32, n_obs_steps=6)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (payload("log"), "norm_mode is 'log'"),
        ({"norm_mode": "q01_q99"}, "metadata_by_tag is empty"),
        (payload(action_horizon=9), "action_horizon 9 exceeds the model's 8"),
        (payload(n_action_steps=0.5), "n_action_steps is 0.5"),
        (payload(stats={**STATS, "q99": None}), "q99 is missing"),
        (payload(stats={**STATS, "q99": [1.0]}), "high has shape"),
        (payload(stats=None), "action_stats is missing"),
        (payload(stats={**STATS, "q01": [0.0, float("nan"), 0.0]}), "finite numbers"),
        (payload(stats={**STATS, "q01": [0.0, 1e39, 0.0]}), "finite numbers"),
        (payload(stats={**STATS, "q01": [0.0, 10**400, 0.0]}), "finite numbers"),
        (payload(stats={**STATS, "q01": ["1", "2", "3"]}), "finite numbers"),
        (payload(stats={**STATS, "q01": [[1.0], [1.0, 2.0]]}), "finite numbers"),
        (payload(stats={**STATS, "q01": [], "q99": []}), "describes no dimension"),
        (payload(stats={**STATS, "q01": [11.0, 0.0, 5.0]}), r"q01\[0\] is 11, above q99 10"),
        (payload(stats={**STATS, "min": [0, 0]}), "min or max has not 3 numbers"),
        (payload(stats={**STATS, "mask": ["a", "b", "c"]}), "mask is .* true or false"),
        (payload(stats={**STATS, "mask": [True, True]}), "mask is .* 3 of true or false"),
        (payload("none", {"names": "none"}), "describes no dimension"),
        (payload(camera_keys=5), "camera_keys is 5; a list of texts"),
        (payload(camera_keys="front"), "camera_keys is 'front'; a list of texts"),
        (payload(setup_type="\ud800"), "setup_type is .* a text"),
        ({"norm_mode": "none", "metadata_by_tag": {"arm": None}}, "tag 'arm' is null"),
        (None, "norm_mode is null"),
        ([], "norm_mode is null"),
    ],
)
def test_broken_statistics_are_refused_by_name(broken, message):
    with pytest.raises(BundleError, match=message):
        parse_tags(broken, 8, 32)
