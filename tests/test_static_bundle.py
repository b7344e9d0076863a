"""Static INT8 by optimum's ORTQuantizer, where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

pytest.importorskip("onnx")

from edge.policy import Policy
from quantization.cli import main
from quantization.fidelity.observations import RecordedObservation
from quantization.verify import verify_bundle

INSTALLED = importlib.util.find_spec("optimum") is not None
needs_optimum = pytest.mark.skipif(
    not INSTALLED,
    reason="optimum-onnx is not installed: 'make setup-calibration' makes .venv-calibration",
)


def observations(*_, **__):
    random = np.random.default_rng(7)
    for number, task in enumerate(("push the cube away", "put the red cube in the bin")):
        yield RecordedObservation(
            episode=number,
            t_s=0.0,
            images=tuple(random.integers(0, 255, (60, 80, 3), dtype=np.uint8) for _ in range(2)),
            task=task,  # prompts of unlike lengths
            state=random.uniform(-1, 1, 6),
        )


@pytest.mark.skipif(INSTALLED, reason="optimum-onnx is installed here")
def test_without_optimum_the_command_says_where_it_is(bundles, tmp_path, capsys):
    out = tmp_path / "static"
    assert main(["static", str(bundles()), str(out), "--episodes", "sim"]) == 2
    error = capsys.readouterr().err
    assert "make setup-calibration" in error
    assert error.count("\n") == 1
    assert not out.exists()


@needs_optimum
@pytest.mark.parametrize("ranges", ["minmax", "percentile"])
def test_a_static_bundle_opens_and_acts_as_full_precision_nearly_does(
    bundles, tmp_path, monkeypatch, ranges
):
    monkeypatch.setattr("quantization.calibration.calibrate.recorded_observations", observations)
    out = tmp_path / "static"
    assert main(["static", str(bundles()), str(out), "--episodes", "x", "--ranges", ranges]) == 0
    manifest = verify_bundle(out)
    layers = manifest.recipe.layers
    assert layers["vision/blocks.0.qkv"].format == "int8-static"
    assert 0 < layers["vision/blocks.0.qkv"].relative_error < 0.02
    assert layers["vision/patch_embedding"].format == "fp32"
    assert layers["decoder/blocks.0.q"].format == "fp32"
    whole, static = Policy.open(bundles()), Policy.open(out)
    seen = next(observations())
    tag = whole.bundle.tags[sorted(whole.bundle.tags)[0]]
    shape = (1, tag.action_horizon, manifest.model.max_action_dim)
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    actions = [
        p.act(seen.images, seen.task, seen.state, tag.name, "off", noise).actions
        for p in (whole, static)
    ]
    assert 0 < np.abs(actions[1] - actions[0]).max() < 0.2 * np.abs(actions[0]).max()


@needs_optimum
def test_an_output_that_is_there_is_refused(bundles, tmp_path, capsys):
    assert main(["static", str(bundles()), str(tmp_path), "--episodes", "sim"]) == 2
    assert "already exists" in capsys.readouterr().err
