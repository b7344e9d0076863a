"""Recording what matrices are multiplied with, and building by it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import REFERENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime.quantization")

from onnx import numpy_helper

from edge.policy import Policy
from quantization.build import build_bundle
from quantization.calibration.calibrate import calibrate
from quantization.calibration.calibration_file import Calibration
from quantization.calibration.input_statistics import RANGES, InputCollector
from quantization.calibration.listening import open_listening
from quantization.calibration.product_errors import product_errors
from quantization.cli import main
from quantization.errors import BuildError
from quantization.fidelity.observations import RecordedObservation, Sampling
from quantization.verify import verify_bundle

MODEL = "two_cameras"
STATIC = [("vision/blocks*", "int8-static"), ("decoder/blocks*", "int8-static")]


def observations(count=3):
    random = np.random.default_rng(7)
    for number in range(count):
        yield RecordedObservation(
            episode=number // 2,
            t_s=0.5 * number,
            images=tuple(random.integers(0, 255, (60, 80, 3), dtype=np.uint8) for _ in range(2)),
            task="put the red cube in the bin",
            state=random.uniform(-1, 1, 6),
        )


@pytest.fixture(scope="module")
def calibration(bundles, tmp_path_factory):
    """Give the path of a calibration of the reference model."""
    out = tmp_path_factory.mktemp("calibration") / "calibration.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "quantization.calibration.calibrate.recorded_observations",
            lambda *_, **__: observations(),
        )
        calibrate(bundles(MODEL), "episodes", out, sampling=Sampling(3), threads=1)
    return out


def act(policy, seen, depth="full"):
    noise = np.random.default_rng(0).standard_normal(
        (1, 30, policy.bundle.manifest.model.max_action_dim)
    )
    tag = sorted(policy.bundle.tags)[0]
    horizon = policy.bundle.tags[tag].action_horizon
    noise = noise[:, :horizon].astype(np.float32)
    return policy.act(seen.images, seen.task, seen.state, tag, depth, noise)


def test_listening_changes_nothing_and_hears_every_matrix(bundles):
    heard = {}

    def hear(layers, rows):
        assert rows.ndim == 2
        for layer in layers:
            heard.setdefault(layer, []).append(rows.copy())

    path = bundles(MODEL)
    listening, plain = open_listening(path, hear, 1), Policy.open(path)
    seen = next(observations())
    np.testing.assert_allclose(act(listening, seen).actions, act(plain, seen).actions, atol=1e-5)
    assert set(heard) == set(plain.bundle.manifest.recipe.layers)
    widths = {
        f"{name}/{tensor.name.removesuffix('.weight')}": tensor.dims[0]
        for name in ("vision", "decoder", "context", "expert")
        for tensor in onnx.load(path / f"{name}.onnx", load_external_data=False).graph.initializer
    }
    for layer, parts in heard.items():
        assert {part.shape[1] for part in parts} == {widths[layer]}


def test_what_is_heard_is_what_the_matrix_is_multiplied_with(bundles):
    heard = {}
    path = bundles(MODEL)
    policy = open_listening(path, lambda layers, rows: heard.update({layers[0]: rows.copy()}), 1)
    act(policy, next(observations()), "off")
    values = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(path / "expert.onnx").graph.initializer
    }
    velocity = heard["expert/final_layer.linear"] @ values["final_layer.linear.weight"]
    velocity += values["final_layer.linear.bias"]
    np.testing.assert_allclose(velocity, policy._expert._velocity[0], atol=1e-4)


def test_only_full_precision_is_listened_to(bundles):
    with pytest.raises(BuildError, match="not stored in full precision; calibrate on an fp32"):
        open_listening(bundles(MODEL, "int8"), lambda *_: None)


@pytest.mark.parametrize("ranges", RANGES)
def test_collected_in_parts_is_collected_at_once(ranges):
    rows = np.random.default_rng(0).normal(0, 1, (500, 300)).astype(np.float32)
    rows[3, 4] = 40  # what minmax follows and the others may cut
    collector = InputCollector(256, ranges)
    for part in np.array_split(rows, 7):
        collector.collect("x", part)
    found = collector.statistics()["x"]
    assert found.rows == 500
    assert found.moments.shape == (2, 256, 256)
    np.testing.assert_allclose(found.moments[0], rows[:, :256].T @ rows[:, :256] / 500, atol=1e-4)
    np.testing.assert_allclose(found.moments[1][44:], 0)
    assert 2.5 < found.limit <= 40.5
    if ranges == "minmax":
        assert found.limit == 40


def test_a_calibrated_build_is_closer_and_says_so(bundles, calibration, tmp_path):
    checkpoint = REFERENCE / MODEL / "checkpoint"
    build_bundle(checkpoint, tmp_path / "small", "int4", calibration=calibration)
    manifest = verify_bundle(tmp_path / "small")
    assert manifest.recipe.name == "int4, calibrated on 3 observations of episodes"
    free = Policy.open(bundles(MODEL, "int4")).bundle.manifest.recipe.layers
    for layer, entry in manifest.recipe.layers.items():
        assert entry.format == free[layer].format
        assert entry.size_bytes == free[layer].size_bytes
        if entry.format.startswith("int4") and entry.weights > 1000:
            assert entry.relative_error < entry.rounding_error
    policies = [
        Policy.open(p) for p in (bundles(MODEL), bundles(MODEL, "int4"), tmp_path / "small")
    ]
    whole, plain, calibrated = (
        np.stack([act(policy, seen, "off").actions for seen in observations()])
        for policy in policies
    )
    assert np.mean((calibrated - whole) ** 2) < 0.5 * np.mean((plain - whole) ** 2)


def test_compared_products_are_off_by_what_the_build_said(bundles, calibration, tmp_path, capsys):
    rules = [
        ("vision/*", "int8"),
        ("decoder/*", "int4-block32-asymmetric"),
        ("decoder/blocks.0.*", "int8-static"),
        ("expert/*", "int4-block16"),
        ("expert/blocks.0.*", "int8-block32-asymmetric"),
        ("context/*", "fp32"),
    ]
    mixed = tmp_path / "mixed"
    checkpoint = REFERENCE / MODEL / "checkpoint"
    built = build_bundle(checkpoint, mixed, "int4", rules, calibration=calibration).recipe.layers
    bundles_given = [bundles(MODEL), mixed]
    found = list(product_errors(bundles(MODEL), bundles_given, Calibration(calibration)))
    assert {entry.layer for entry in found} == set(built)
    assert len({entry.formats[1] for entry in found}) == 6
    for entry in found:
        assert entry.errors[0] == 0
        said = built[entry.layer].relative_error
        assert entry.errors[1] == pytest.approx(said, rel=0.02, abs=2e-6)
    arguments = ["compare", str(bundles(MODEL)), str(mixed), "--inputs", str(calibration)]
    assert main([*arguments, "--matrices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("decoder/blocks.0.q ") for line in lines)
    assert len(json.loads(lines[-1])) == len(built)


def test_prompt_weights_of_their_own_are_calibrated_as_those_of_the_decoder(calibration):
    recorded = Calibration(calibration)
    assert "prefill/blocks.0.q" in recorded
    assert "prefill/blocks.99.q" not in recorded
    assert recorded.limit("prefill/blocks.0.q") == recorded.limit("decoder/blocks.0.q")


def test_static_scales_come_from_the_calibration(bundles, calibration, tmp_path):
    checkpoint = REFERENCE / MODEL / "checkpoint"
    with pytest.raises(BuildError, match=r"vision/blocks.0.qkv: int8-static needs the range"):
        build_bundle(checkpoint, tmp_path / "none", "int8", STATIC)
    assert not (tmp_path / "none").exists()
    build_bundle(checkpoint, tmp_path / "static", "int8", STATIC, calibration=calibration)
    layers = verify_bundle(tmp_path / "static").recipe.layers
    assert layers["decoder/blocks.0.ff_out"].format == "int8-static"
    seen = next(observations())
    whole = act(Policy.open(bundles(MODEL)), seen, "off").actions
    static = act(Policy.open(tmp_path / "static"), seen, "off").actions
    assert 0 < np.abs(static - whole).max() < 0.1 * np.abs(whole).max()


def test_a_static_row_does_not_depend_on_the_company_it_keeps(calibration, tmp_path):
    build_bundle(
        REFERENCE / MODEL / "checkpoint", tmp_path / "b", "int8", STATIC, calibration=calibration
    )
    policy = Policy.open(tmp_path / "b")
    seen = next(observations())
    first = act(policy, seen, "full")
    again = act(policy, seen, "full")  # now with the last call's codes as the draft
    np.testing.assert_array_equal(first.depth_codes, again.depth_codes)
    np.testing.assert_array_equal(first.actions, again.actions)


def test_the_calibration_of_another_checkpoint_is_refused(calibration, tmp_path):
    other = tmp_path / "checkpoint"
    shutil.copytree(REFERENCE / MODEL / "checkpoint", other)
    config = other / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=3))
    with pytest.raises(BuildError, match="was taken from another checkpoint"):
        build_bundle(other, tmp_path / "bundle", "int4", calibration=calibration)
    assert not (tmp_path / "bundle").exists()


def test_mistakes_at_the_command_line_are_one_line(bundles, calibration, tmp_path, capsys):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(calibration.read_bytes()[:1000])
    other = tmp_path / "other.safetensors"
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(1, np.float32)}, other)
    whole, checkpoint = str(bundles(MODEL)), str(REFERENCE / MODEL / "checkpoint")
    bundle = str(tmp_path / "bundle")
    build = ["build", checkpoint, bundle, "--recipe", "int4", "--calibration"]
    for arguments, said in (
        ([*build, str(damaged)], "cannot read the calibration"),
        ([*build, str(tmp_path / "none")], "cannot read the calibration"),
        ([*build, str(other)], "not a calibration of this version"),
        (["calibrate", whole, str(calibration), "--episodes", "sim"], "already exists"),
        (["calibrate", whole, str(tmp_path / "c"), "--episodes", str(tmp_path)], str(tmp_path)),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "c").exists()
