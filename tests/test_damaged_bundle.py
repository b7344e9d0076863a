"""A bundle mixed up, or made to do harm: one clear line, and nothing outside it is read."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from conftest import edit_manifest, load_cases

onnx = pytest.importorskip("onnx")

from edge.bundle import GRAPHS, file_sha256, open_bundle
from edge.cli import main as edge_main
from edge.errors import BundleError
from edge.policy import Policy
from quantization.cli import main as quantize_main

pytestmark = pytest.mark.usefixtures("own_cache")


def sign(bundle, name):
    """Make the manifest vouch for the file as it is now."""
    file = bundle / name
    entry = {"size_bytes": file.stat().st_size, "sha256": file_sha256(file)}
    edit_manifest(bundle, lambda m: m["files"].update({name: entry}))


def edit_graph(bundle, name, change):
    model = onnx.load(bundle / name, load_external_data=False)
    change(model)
    (bundle / name).write_bytes(model.SerializeToString())
    sign(bundle, name)


def set_external(key, value):
    def change(model):
        tensor = next(t for t in model.graph.initializer if t.external_data)
        next(entry for entry in tensor.external_data if entry.key == key).value = value

    return change


def act(bundle, depth="full"):
    case = load_cases("two_cameras")[0]
    return Policy.open(bundle).act(case.images, "lift", case.arrays["state"], depth=depth)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        *[("model", name, 0) for name in ("width", "layers", "head_dim", "flow_steps")],
        *[("model", name, 1 << 40) for name in ("layers", "max_positions", "kv_width")],
        ("model", "layers", 10**30),
        ("model", "rope_theta", 0.0),
        ("model", "embedding_dtype", "float16"),
        ("model", "depth_gate", "sometimes"),
        ("model", "depth_cells", 3),
        ("model", "depth_codes", 0),
        ("model", "n_obs_steps", 0),
        ("image", "patch_size", 0),
        ("image", "height", 1 << 40),
        ("image", "height", 29),
        ("image", "crop_mode", "zoom"),
        ("image", "max_crops", 10**6),
        ("prompt", "state_bins", 10**18),
        ("tokens", "bos", 10**6),
        ("tokens", "eos", 1 << 70),
        ("tokens", "image_patch", 0),
        ("tokens", "depth_start", None),
        ("tokens", "depth_first", 10**6),
        ("source", "name", "\x1b[31mred\n"),
    ],
)
def test_an_absurd_field_is_refused_by_name_before_anything_is_made_of_it(
    copy, section, field, value
):
    def change(manifest):
        model = manifest["model"]
        parts = {"image": model["image"], "prompt": model["prompt"], **manifest}
        parts[section][field] = value

    edit_manifest(copy, change)
    with pytest.raises(BundleError, match=f"{section}.{field} is") as error:
        open_bundle(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "", '{"schema": NaN}', "\x00"])
def test_what_is_no_manifest_is_one_line_from_every_command(copy, text, capsys):
    (copy / "manifest.json").write_text(text)
    for main, command in ((edge_main, "inspect"), (quantize_main, "verify")):
        assert main([command, str(copy)]) == 2
        error = capsys.readouterr().err
        assert "manifest.json" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "vision.onnx.data"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_a_link_is_refused_and_not_read(copy, name, make):
    (copy / name).unlink()
    make(copy / name)
    with pytest.raises(BundleError, match=f"{name}: not a regular file"):
        open_bundle(copy)


def test_a_link_to_the_same_bytes_is_refused_too(copy, tmp_path):
    shutil.move(copy / "embeddings.bin", tmp_path / "elsewhere")
    (copy / "embeddings.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"embeddings\.bin: not a regular file"):
        open_bundle(copy)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("place", ["../outside.data", "/etc/hostname", "unlisted.data"])
def test_a_graph_reads_no_file_that_the_manifest_does_not_list(copy, tmp_path, name, place):
    shutil.copy(copy / f"{name}.data", tmp_path / "outside.data")
    shutil.copy(copy / f"{name}.data", copy / "unlisted.data")
    edit_graph(copy, name, set_external("location", place))
    with pytest.raises(BundleError, match=f"{name}: weights are read from '{place}'"):
        open_bundle(copy)


def test_weights_of_a_branch_are_looked_at_as_well(copy):
    tensor = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../outside.data")
    branch = onnx.GraphProto(name="branch", initializer=[tensor])
    attribute = onnx.helper.make_attribute("then_branch", branch)
    edit_graph(copy, "decoder.onnx", lambda model: model.graph.node[0].attribute.append(attribute))
    with pytest.raises(BundleError, match=r"weights are read from '\.\./outside\.data'"):
        open_bundle(copy)


@pytest.mark.parametrize("junk", [b"", b"junk" * 99, b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 64])
def test_a_graph_file_that_holds_no_graph_is_refused(copy, junk):
    (copy / "expert.onnx").write_bytes(junk)
    sign(copy, "expert.onnx")
    with pytest.raises(BundleError, match=r"expert\.onnx: "):
        Policy.open(copy)


def test_a_graph_in_the_place_of_another_is_refused_when_opened(copy):
    shutil.copy(copy / "context.onnx", copy / "expert.onnx")
    sign(copy, "expert.onnx")
    with pytest.raises(BundleError, match=r"expert\.onnx: input actions is absent"):
        Policy.open(copy)


@pytest.mark.parametrize("field", ["layers", "kv_width", "expert_width", "max_action_dim"])
def test_a_manifest_of_another_size_than_the_graphs_is_refused_when_opened(copy, field):
    def change(manifest):
        model = manifest["model"]
        model[field] += model["head_dim"] if field == "kv_width" else 1

    edit_manifest(copy, change)
    with pytest.raises(BundleError, match=r"\.onnx: .* the manifest implies"):
        Policy.open(copy)


def test_a_failure_inside_a_graph_is_one_line_and_nothing_else_on_the_terminal(copy, capfd):
    edit_manifest(copy, lambda m: m["model"].update(flow_steps=m["model"]["flow_steps"] + 1))
    with pytest.raises(BundleError, match=r"expert\.onnx: onnxruntime cannot run it") as error:
        act(copy)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_the_tokenizer_of_another_model_is_refused(copy):
    path = copy / "tokenizer.json"
    payload = json.loads(path.read_text())
    payload["added_tokens"] = [t for t in payload["added_tokens"] if t["content"] != "<state_7>"]
    for token in payload["added_tokens"]:
        if token["content"] == "<im_patch>":
            token["content"] = "<some_patch>"
    path.write_text(json.dumps(payload))
    sign(copy, "tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer\.json: <im_patch> is absent"):
        open_bundle(copy)


def test_a_tokenizer_told_to_truncate_does_not(bundles, copy):
    path = copy / "tokenizer.json"
    payload = json.loads(path.read_text())
    payload["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    path.write_text(json.dumps(payload))
    sign(copy, "tokenizer.json")
    assert act(copy).prompt_tokens == act(bundles()).prompt_tokens


def test_a_token_without_a_row_in_the_embeddings_is_named(copy):
    table = open_bundle(copy).embeddings
    with pytest.raises(BundleError, match=r"embeddings\.bin: token 999999 is outside"):
        table.rows(np.array([0, 999999]))


def test_setup_words_that_hold_picture_tokens_are_refused(copy):
    path = copy / "norm_stats.json"
    stats = json.loads(path.read_text())
    for tag in stats["metadata_by_tag"].values():
        tag["setup_type"] = "<im_patch>"
    path.write_text(json.dumps(stats))
    sign(copy, "norm_stats.json")
    with pytest.raises(BundleError, match="picture tokens"):
        act(copy)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "zz"), ("offset", "-64"), ("length", str(1 << 62))]
)
def test_verify_refuses_weights_at_an_impossible_place(copy, key, value, capsys):
    edit_graph(copy, "vision.onnx", set_external(key, value))
    assert quantize_main(["verify", str(copy)]) == 2
    error = capsys.readouterr().err
    assert "vision.onnx" in error
    assert error.count("\n") == 1
