"""Parity for shapes that no stored case has: the reference is run here and now.

Five cameras, one key/value head under many layers, tiled pictures.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")

import torch
from make_reference import main as make_reference

from edge.policy import Policy
from quantization.build import build_bundle


@pytest.mark.parametrize("shape", ["five_cameras", "deep", "tiled"])
def test_fp32_bundle_reproduces_the_reference_on_another_shape(shape, tmp_path):
    if torch.get_num_threads() == 1:
        pytest.skip("with one thread PyTorch resizes with another kernel, off by one level")
    assert make_reference([shape, str(tmp_path / "made")]) == 0
    cases = json.loads((tmp_path / "made" / "cases.json").read_text())["cases"]
    with np.load(tmp_path / "made" / "cases.npz") as file:
        arrays = dict(file)
    build_bundle(tmp_path / "made" / "checkpoint", tmp_path / "bundle", "fp32")
    policy = Policy.open(tmp_path / "bundle")
    for case in cases:
        name, depth = case["name"], "off"
        if case["depth_reasoning"]:
            depth = "incremental" if case["depth_cache_from"] else "full"
        result = policy.act(
            [arrays[image] for image in case["images"]],
            case["task"],
            arrays[f"{name}.state"],
            case["norm_tag"],
            depth=depth,
            noise=arrays[f"{name}.noise"],
        )
        tag = policy.bundle.tags[case["norm_tag"]]
        ones = np.ones(tag.action.dim)
        extent = np.abs(tag.action.unnormalize(ones) - tag.action.unnormalize(-ones))
        error = np.abs(result.actions - arrays[f"{name}.actions"][0]) / extent
        assert error.max() <= 0.002, name
        if depth != "off":
            np.testing.assert_array_equal(result.depth_codes, arrays[f"{name}.depth_codes"][0])
    assert any(case["depth_cache_from"] for case in cases)
