"""One matrix of a small bundle inside full precision is that matrix, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import REFERENCE
from test_fidelity import observations, only_tag

from edge.bundle import open_bundle
from edge.draft_window import FixedWindow
from edge.onnx_engine import open_engines
from edge.onnx_session import EngineSettings
from edge.policy import Policy
from edge.profile import load_profile
from quantization.build import build_bundle
from quantization.calibration.calibrate import calibrate
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.observations import Sampling
from quantization.fidelity.open_loop import Conditions, answers
from quantization.fidelity.robot_units import RobotUnits
from quantization.fidelity.sensitivity import block_of, layer_sensitivity

NO_DEPTH = Conditions(depth="off")  # a code that falls the other way would hide what is compared


@pytest.fixture(scope="module")
def donor(tmp_path_factory, bundles, request):
    """Give `donor(format)`: a bundle with every matrix in that format."""
    root = tmp_path_factory.mktemp("donors")
    recorded = root / "calibration.safetensors"

    def build(form):
        path = root / form
        if not path.exists():
            if form == "int8-static":
                episodes = str(request.getfixturevalue("tiny_dataset"))
                calibrate(bundles(), episodes, recorded, sampling=Sampling(4), ranges="minmax")
            build_bundle(
                REFERENCE / "two_cameras" / "checkpoint",
                path,
                "fp32",
                [("*", form)],
                calibration=recorded if form == "int8-static" else None,
            )
        return path

    return build


def tip_error_mm(small, whole):
    """Compare the small bundle itself, on full precision's embeddings, which stay as they are."""
    known = open_bundle(whole)
    bundle = replace(open_bundle(small), embeddings=known.embeddings)
    policy = Policy(bundle, *open_engines(bundle, EngineSettings(1)), FixedWindow(None))
    seen = list(observations(whole))
    ours, theirs = (
        np.concatenate([part.actions for part in answers(player, seen, NO_DEPTH).results])
        for player in (policy, Policy.open(whole))
    )
    units = RobotUnits(only_tag(whole), load_profile("sim").arm)
    return units.tip_distances_mm(ours, theirs).mean()


@pytest.mark.parametrize("form", ["int8", "int8-static", "int4", "int4-block16-asymmetric"])
def test_all_matrices_together_do_what_the_small_bundle_does(bundles, donor, form):
    [found] = layer_sensitivity(
        bundles(), {"": donor(form)}, observations(bundles()), NO_DEPTH, group=lambda path: "*"
    )
    layers = open_bundle(donor(form)).manifest.recipe.layers.values()
    assert found.bytes == sum(layer.size_bytes for layer in layers)
    assert found.full_bytes == 4 * sum(layer.weights for layer in layers)
    assert found.tip_error_mm == pytest.approx(tip_error_mm(donor(form), bundles()), rel=0.02)


def test_a_matrix_alone_does_less_than_all_and_more_with_fewer_bits(bundles, donor):
    seen = list(observations(bundles()))
    donors = {"four": donor("int4"), "eight": donor("int8-block32")}
    ticks = []
    layers = layer_sensitivity(
        bundles(),
        donors,
        seen,
        NO_DEPTH,
        only="expert/blocks.0.mlp.*",
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert ticks[-1] == (len(layers), len(layers))
    harm = {(layer.path, layer.format): layer.tip_error_mm for layer in layers}
    assert list(harm.values()) == sorted(harm.values(), reverse=True)
    paths = {path for path, _ in harm}
    assert len(harm) == 2 * len(paths) > 2
    whole = tip_error_mm(donor("int4"), bundles())
    for path in paths:
        assert 0 < harm[path, "int8-block32"] < harm[path, "int4-block32"] < whole


def test_weights_of_the_span_alone_do_nothing_where_no_depth_is_asked(bundles):
    layers = layer_sensitivity(
        bundles(),
        {"both": bundles(recipe="int8-int4")},
        list(observations(bundles()))[:2],
        NO_DEPTH,
        group=lambda path: path.split("/")[0] + "/*",
        only="[dp]*",  # decoder and prefill
    )
    errors = {layer.path: layer.tip_error_mm for layer in layers}
    assert errors["decoder/*"] == 0 < errors["prefill/*"]


def test_depth_codes_show_what_the_decoder_does_to_them(bundles, donor):
    [found] = layer_sensitivity(
        bundles(),
        {"": donor("int4")},
        observations(bundles()),
        group=block_of,
        only="decoder/blocks.0.*",
    )
    assert found.path == "decoder/blocks.0.*"
    assert found.depth_codes_equal < 1


def test_groups_are_the_patterns_of_recipes():
    assert block_of("decoder/blocks.3.ff_up") == "decoder/blocks.3.*"
    assert block_of("expert/blocks.11.mlp.up_proj") == "expert/blocks.11.*"
    assert block_of("decoder/head") == "decoder/head"
    assert block_of("vision/pool.wq") == "vision/pool.wq"


def test_what_cannot_be_compared_is_refused(bundles, donor):
    seen = list(observations(bundles()))[:1]
    with pytest.raises(FidelityError, match="come from different checkpoints"):
        layer_sensitivity(bundles(), {"": bundles("one_camera_crops", "int4")}, seen)
    with pytest.raises(FidelityError, match="not in full precision; compare with a bundle built"):
        layer_sensitivity(donor("int8"), {"": donor("int4")}, seen)
    with pytest.raises(FidelityError, match="no observation was given"):
        layer_sensitivity(bundles(), {"": donor("int4")}, [])
