"""An fp32 bundle must give what the public full-precision model gave, from raw pictures on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import REFERENCE, load_cases, reference_models

from edge.policy import Policy

ACTION_TOLERANCE = 0.002  # of each joint's q01..q99 range
MODELS = reference_models()


def play(policy, case):
    return policy.act(
        case.images,
        case.meta["task"],
        case.arrays["state"],
        case.meta["norm_tag"],
        depth=case.depth,
        noise=case.arrays["noise"],
    )


def joint_ranges(model):
    stats = json.loads((REFERENCE / model / "checkpoint" / "norm_stats.json").read_text())
    action = next(iter(stats["metadata_by_tag"].values()))["action_stats"]
    return np.array(action["q99"]) - np.array(action["q01"])


@pytest.mark.parametrize("model", MODELS)
def test_fp32_bundle_reproduces_every_case_of_the_reference(model, bundles):
    policy = Policy.open(bundles(model))
    for case in load_cases(model):
        result = play(policy, case)
        error = np.abs(result.actions - case.arrays["actions"][0]) / joint_ranges(model)
        assert error.max() <= ACTION_TOLERANCE, case.name
        if case.depth == "off":
            assert result.depth_codes is None
        else:
            np.testing.assert_array_equal(result.depth_codes, case.arrays["depth_codes"][0])
        if "changed_cells" in case.arrays:
            assert result.changed_cells == case.arrays["changed_cells"].sum()


@pytest.mark.parametrize("model", MODELS)
def test_depth_takes_one_pass_plus_one_for_each_code_that_moved(model, bundles):
    policy = Policy.open(bundles(model), profile=None)
    previous = None
    for case in load_cases(model):
        result = play(policy, case)
        if case.depth == "incremental":
            moved = np.count_nonzero(result.depth_codes != previous)
            assert result.moved_cells == moved
            assert 1 <= result.depth_passes <= 1 + moved
        previous = result.depth_codes if result.depth_codes is not None else previous


@pytest.mark.parametrize("recipe", ["fp32", "int4"])
@pytest.mark.parametrize("model", MODELS)
def test_a_still_scene_reasons_about_depth_in_one_pass(model, recipe, bundles):
    policy = Policy.open(bundles(model, recipe))
    case = next(case for case in load_cases(model) if case.depth == "full")
    lengths = []
    for task in ("a", "aq"):
        first = policy.act(case.images, task, case.arrays["state"], depth="full")
        again = policy.act(case.images, task, case.arrays["state"], depth="incremental")
        assert (again.depth_passes, again.changed_cells) == (1, 0)
        np.testing.assert_array_equal(again.depth_codes, first.depth_codes)
        lengths.append(again.prompt_tokens)
    assert lengths[1] == lengths[0] + 1  # an even prompt and an odd one


@pytest.mark.parametrize("model", MODELS)
def test_intermediates_agree_so_that_a_difference_can_be_placed(model, bundles):
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    policy = Policy.open(bundles(model))
    seen = {}
    encode, prefill = policy._vision.encode, policy._decoder.prefill

    def keep_features(*args):
        seen["image_features"] = encode(*args)
        return seen["image_features"]

    def keep_inputs(embeddings, image_mask, rows):
        seen["embeddings"], seen["image_mask"] = embeddings, image_mask
        return prefill(embeddings, image_mask, rows)

    policy._vision.encode, policy._decoder.prefill = keep_features, keep_inputs
    case = next(case for case in load_cases(model) if case.depth == "off")
    play(policy, case)
    graph = onnx.load(bundles(model) / "decoder.onnx")
    graph.graph.output.append(onnx.helper.make_tensor_value_info("blocks.0.hidden", 1, None))
    session = ort.InferenceSession(graph.SerializeToString())
    entry, count = policy.bundle.manifest.model, len(seen["embeddings"])
    mask = np.tri(count, dtype=bool) | np.outer(seen["image_mask"], seen["image_mask"])
    feed = {
        "embeddings": seen["embeddings"][None],
        "prompt_mask": mask,
        "span_mask": np.zeros((0, count + 1), bool),
        "rows": np.arange(count),
        "cos": policy._decoder._cos[:, :count],
        "sin": policy._decoder._sin[:, :count],
    }
    for index in range(entry.layers):
        for kind in ("keys", "values"):
            for cache in ("past", "span"):
                feed[f"{cache}_{kind}.{index}"] = np.zeros((1, 0, entry.kv_width), np.float32)
    after_block_0, final = session.run(["blocks.0.hidden", "hidden"], feed)
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(seen["image_features"], case.arrays["image_features"], **close)
    np.testing.assert_allclose(after_block_0, case.arrays["hidden_after_block_0"], **close)
    np.testing.assert_allclose(final, case.arrays["hidden_final"], **close)


@pytest.mark.parametrize("recipe", ["int8", "int4", "int8-int4"])
@pytest.mark.parametrize("model", MODELS)
def test_quantised_bundles_open_run_and_stay_near_full_precision(model, recipe, bundles):
    whole, small = Policy.open(bundles(model)), Policy.open(bundles(model, recipe))
    case = load_cases(model)[0]
    difference = np.abs(play(small, case).actions - play(whole, case).actions)
    share = (difference / joint_ranges(model)).max()
    assert 0 < share < 0.2  # random weights: the gate on a trained checkpoint is the judge


def test_depth_off_leaves_the_stored_codes_alone(bundles):
    policy = Policy.open(bundles())
    cases = load_cases("two_cameras")
    full = next(case for case in cases if case.depth == "full")
    codes = play(policy, full).depth_codes
    play(policy, next(case for case in cases if case.depth == "off"))
    again = policy.act(full.images, full.meta["task"], full.arrays["state"], depth="incremental")
    assert again.changed_cells == 0
    np.testing.assert_array_equal(again.depth_codes, codes)


def test_after_reset_incremental_predicts_every_cell(bundles):
    policy = Policy.open(bundles())
    case = next(case for case in load_cases("two_cameras") if case.depth == "full")
    codes = play(policy, case).depth_codes
    policy.reset()
    again = policy.act(case.images, case.meta["task"], case.arrays["state"], depth="incremental")
    assert again.changed_cells == len(codes)
    np.testing.assert_array_equal(again.depth_codes, codes)


def test_result_names_every_stage_and_gives_the_documented_shapes(bundles):
    case = load_cases("two_cameras")[0]
    result = Policy.open(bundles()).act(case.images, case.meta["task"], case.arrays["state"])
    assert list(result.stages) == ["preprocess", "vision", "prefill", "depth", "expert"]
    assert all(seconds >= 0 for seconds in result.stages.values())
    assert result.actions.shape == case.arrays["actions"][0].shape
    assert result.actions.dtype == np.float32


@pytest.mark.parametrize("profile", [None, "so101"])
@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4", "int8-int4"])
def test_no_draft_and_no_window_changes_the_codes_of_any_recipe(recipe, profile, bundles):
    policy = Policy.open(bundles("one_camera_crops", recipe), profile)
    case = next(case for case in load_cases("one_camera_crops") if case.depth == "full")

    def codes():
        observed = case.images, case.meta["task"], case.arrays["state"]
        return policy.act(*observed, depth="full").depth_codes

    expected, random = codes(), np.random.default_rng(0)
    for wrong_cells in (0, 1, 5, len(expected)):
        picture, _ = policy._previous
        draft = expected.copy()
        cells = random.permutation(len(draft))[:wrong_cells]
        draft[cells] = random.integers(0, policy.bundle.manifest.model.depth_codes, wrong_cells)
        policy._previous = picture, draft
        np.testing.assert_array_equal(codes(), expected)
