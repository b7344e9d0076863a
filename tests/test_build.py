"""Building refuses what it cannot build, and leaves nothing half done."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REFERENCE

pytest.importorskip("onnx")

from edge.manifest import read_manifest
from quantization.build import build_bundle
from quantization.checkpoint import Checkpoint
from quantization.cli import main
from quantization.errors import BuildError
from quantization.expert import modulation_table
from quantization.verify import verify_bundle


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint"
    shutil.copytree(REFERENCE / "two_cameras" / "checkpoint", path)
    return path


def edit_json(path, change):
    payload = json.loads(path.read_text())
    change(payload)
    path.write_text(json.dumps(payload))


def shard(checkpoint, count=3):
    """Split the single weight file into shards with an index, as large releases do."""
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for index in range(count):
        file = f"model-{index + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[index::count]}
        safetensors.save_file(part, checkpoint / file)
        weight_map |= dict.fromkeys(part, file)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def nested(key, value):
    def change(config):
        *parents, last = key.split(".")
        for parent in parents:
            config = config[parent]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "llama", "model_type is 'llama'"),
        ("text_config.norm_after", True, "text_config: norm_after is True"),
        ("text_config.hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("text_config.qk_norm_type", "olmo", "qk_norm_type is 'olmo'"),
        ("text_config.num_key_value_heads", 3, "num_key_value_heads is 3"),
        ("text_config.rope_scaling", {"rope_type": "yarn"}, "rope_scaling is 'yarn'"),
        ("text_config.hidden_size", 0, "hidden_size is 0"),
        ("vit_config.hidden_act", "relu", "hidden_act is 'relu'"),
        ("vit_config.image_num_pos", 49, "image_num_pos is 49"),
        ("adapter_config.vit_layers", [-9], "vit_layers is -9"),
        ("adapter_config.attn_implementation", "flex", "attn_implementation is 'flex'"),
        ("action_expert_config.causal_attn", True, "causal_attn is True"),
        ("action_expert_config.num_layers", 3, "num_layers is 3"),
        ("action_mode", "discrete", "action_tokenizer: missing; discrete actions need"),
        ("num_depth_codes", 15, "num_depth_codes is 15"),
        ("depth_token_start_id", 7, "gives <depth_0> the id 7"),
        ("eos_token_id", [1, 2], r"eos_token_id is \[1, 2\]"),
        ("eos_token_id", 10**6, "tokens.eos is 1000000; allowed: 0 to"),
        ("flow_matching_num_steps", 10**12, "flow_matching_num_steps is 1000000000000"),
        ("n_obs_steps", 5000, "n_obs_steps 5000 exceed action_horizon 10"),
        ("text_config.max_position_embeddings", 1 << 20, "max_positions is 1048576"),
        ("text_config.additional_vocab_size", -1, "additional_vocab_size is -1"),
        ("text_config.num_key_value_heads", "2", "num_key_value_heads is '2'"),
        ("text_config.rope_parameters", [1], r"rope_parameters is \[1\]"),
        ("text_config.rope_theta", float("inf"), "rope_theta is inf"),
        ("vit_config.image_default_input_size", 5, "vit_config.image_default_input_size 5"),
        ("adapter_config.vit_layers", 5, "vit_layers is 5"),
        ("adapter_config.vit_layers", [], r"vit_layers is \[\]"),
        ("adapter_config.vit_layers", ["a"], r"vit_layers is \['a'\]"),
    ],
)
def test_a_config_outside_what_is_supported_is_refused_by_field_and_value(
    checkpoint, tmp_path, key, value, message
):
    edit_json(checkpoint / "config.json", nested(key, value))
    with pytest.raises(BuildError, match=message):
        build_bundle(checkpoint, tmp_path / "bundle", "fp32")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop_mode", "tile", "crop_mode is 'tile'"),
        ("size", 5, "size is 5"),
        ("size.height", "a", "height is 'a'"),
        ("pooling_size", [2], r"pooling_size is \[2\]"),
        ("pooling_size", {"height": 2}, "pooling_size is {'height': 2}"),
        ("pooling_size", [0, 2], "pooling_height is 0; allowed: 1 to 64"),
        ("overlap_margins", "ab", "overlap_margins is 'ab'"),
        ("overlap_margins", [1, -1], "overlap_right is -1; allowed: 0 to 256"),
        ("max_crops", 1000, "max_crops is 1000; allowed: 1 to 64"),
    ],
)
def test_a_processor_outside_what_is_supported_is_refused_by_field_and_value(
    checkpoint, tmp_path, key, value, message
):
    edit_json(checkpoint / "processor_config.json", nested(f"image_processor.{key}", value))
    with pytest.raises(BuildError, match=message):
        build_bundle(checkpoint, tmp_path / "bundle", "fp32")
    assert not (tmp_path / "bundle").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: truncate(c / "model.safetensors"), "model.safetensors: damaged or truncated"),
        (lambda c: (c / "model.safetensors").unlink(), "model.safetensors: missing"),
        (lambda c: (c / "norm_stats.json").unlink(), "norm_stats.json: missing"),
        (lambda c: (c / "tokenizer.json").unlink(), "tokenizer.json: missing"),
        (lambda c: (c / "tokenizer.json").write_text("{}"), "tokenizer.json: not a tokenizer"),
        (
            lambda c: edit_json(c / "tokenizer_config.json", lambda t: t.update(eos_token=[1])),
            "token None is missing",
        ),
        (
            lambda c: edit_json(c / "norm_stats.json", lambda s: s.update(more=float("nan"))),
            "norm_stats.json: holds NaN",
        ),
        (lambda c: (c / "config.json").write_text("["), "config.json: not JSON"),
        (lambda c: (c / "config.json").write_text("[]"), "config.json: a JSON object"),
        (
            lambda c: edit_json(c / "tokenizer.json", rename_token("<depth_3>")),
            "token <depth_3> is missing",
        ),
        (
            lambda c: edit_json(c / "tokenizer.json", rename_token("<depth_end>")),
            "token <depth_end> is missing",
        ),
        (
            lambda c: edit_json(c / "config.json", nested("text_config.intermediate_size", 96)),
            "ff_proj.weight has shape",
        ),
        (
            lambda c: edit_json(
                c / "config.json", nested("action_expert_depth_gate_per_layer", True)
            ),
            "tensor model.action_expert_depth_gate.0.weight is missing",
        ),
    ],
)
def test_a_damaged_checkpoint_gives_one_line_and_no_output(
    checkpoint, tmp_path, capsys, damage, message
):
    damage(checkpoint)
    assert main(["build", str(checkpoint), str(tmp_path / "bundle"), "--recipe", "int4"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("molmoact-quantize: error: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def rename_token(content):
    def change(tokenizer):
        for token in tokenizer["added_tokens"]:
            if token["content"] == content:
                token["content"] = "<renamed>"
        vocab = tokenizer["model"]["vocab"]
        if content in vocab:
            vocab["<renamed>"] = vocab.pop(content)

    return change


def test_unknown_recipe_missing_checkpoint_and_existing_output_are_one_line_each(
    checkpoint, tmp_path, capsys
):
    bundle = str(tmp_path / "bundle")
    assert main(["build", str(checkpoint), bundle, "--recipe", "int3"]) == 2
    unknown = "recipe 'int3' is unknown; choose one of fp32, int8, int4, int8-int4"
    assert unknown in capsys.readouterr().err
    assert main(["build", str(tmp_path / "no"), bundle, "--recipe", "int4"]) == 2
    assert "no such checkpoint folder" in capsys.readouterr().err
    assert main(["build", str(checkpoint), bundle, "--recipe", "int4"]) == 0
    assert main(["build", str(checkpoint), bundle, "--recipe", "int4"]) == 2
    assert "already exists; delete it or choose another path" in capsys.readouterr().err


def test_shards_build_the_same_bundle_as_one_file(checkpoint, bundles, tmp_path):
    shard(checkpoint)
    manifest = build_bundle(checkpoint, tmp_path / "bundle", "fp32")
    whole = read_manifest(bundles())
    assert manifest.source.sha256 != whole.source.sha256
    assert manifest.files == whole.files


def test_a_missing_or_incomplete_shard_is_named(checkpoint, tmp_path):
    shard(checkpoint)
    second = checkpoint / "model-00002-of-00003.safetensors"
    first = checkpoint / "model-00001-of-00003.safetensors"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(BuildError, match=r"model-00002-of-00003\.safetensors: missing"):
        Checkpoint(checkpoint)
    second.write_bytes(first.read_bytes())
    with pytest.raises(BuildError, match=r"model-00002-of-00003\.safetensors: tensor .* missing"):
        Checkpoint(checkpoint)
    second.write_bytes(kept)
    Checkpoint(checkpoint)


def test_building_twice_gives_the_same_bytes(checkpoint, tmp_path):
    first = build_bundle(checkpoint, tmp_path / "a", "int4")
    second = build_bundle(checkpoint, tmp_path / "b", "int4")
    assert first == second


def test_a_killed_build_leaves_nothing_that_opens_and_can_be_started_again(checkpoint, tmp_path):
    slow = (
        "import sys, time, quantization.build as b\n"
        "b.write_expert = lambda *a: (print('half', flush=True), time.sleep(60))\n"
        f"b.build_bundle(b.Path({str(checkpoint)!r}), b.Path({str(tmp_path / 'bundle')!r}), 'int4')"
    )
    child = subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "half\n"
    child.kill()
    child.wait(10)
    assert not (tmp_path / "bundle").exists()
    assert (tmp_path / ".bundle.building" / "decoder.onnx").exists()
    build_bundle(checkpoint, tmp_path / "bundle", "int4")
    verify_bundle(tmp_path / "bundle")
    assert not (tmp_path / ".bundle.building").exists()


def test_two_builds_of_one_output_do_not_mix(checkpoint, tmp_path):
    work = tmp_path / ".bundle.building"
    work.mkdir()
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another build is writing it"):
            build_bundle(checkpoint, tmp_path / "bundle", "int4")
    finally:
        os.close(handle)


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4", "int8-int4"])
def test_verify_accepts_what_build_wrote(recipe, bundles, capsys):
    assert main(["verify", str(bundles("one_camera_crops", recipe))]) == 0
    assert f"recipe {recipe}" in capsys.readouterr().out


def test_verify_refuses_a_graph_that_does_not_fit_the_manifest(checkpoint, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    build_bundle(checkpoint, bundle, "fp32")
    edit_json(bundle / "manifest.json", nested("model.expert_width", 32))
    assert main(["verify", str(bundle)]) == 2
    assert "context.onnx: output cross_keys.0 is" in capsys.readouterr().err


def test_the_last_layer_and_head_are_skipped_when_no_row_is_asked_for(bundles):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(bundles() / "decoder.onnx", load_external_data=False).graph
    outside = {name for node in graph.node if node.op_type != "If" for name in node.input}
    assert {"blocks.3.k.weight", "blocks.3.v.weight"} <= outside
    for part in ("q", "attn_out", "ff_up", "ff_gate", "ff_out"):
        assert f"blocks.3.{part}.weight" not in outside
    assert "head.weight" not in outside


def test_only_depth_rows_of_the_head_and_read_layers_of_the_tower_are_stored(bundles):
    layers = read_manifest(bundles()).recipe.layers
    assert layers["decoder/head"].weights == 24 * 64  # 24 depth codes of 640 rows
    assert not any("modulation" in path or "time_embed" in path for path in layers)
    assert sum(".qkv" in path and path.startswith("vision/") for path in layers) == 4


def test_modulation_table_is_what_the_reference_computes(checkpoint):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("lerobot.policies.molmoact2.molmoact2_hf_model")
    del reference
    from lerobot.policies.molmoact2.molmoact2_hf_model.configuration_molmoact2 import (
        MolmoAct2Config,
    )
    from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import ActionExpert
    from safetensors.torch import load_file

    config = MolmoAct2Config.from_pretrained(checkpoint)
    expert = ActionExpert(
        config.action_expert_config, llm_dim=64, llm_kv_dim=48, llm_num_layers=4
    ).eval()
    weights = load_file(checkpoint / "model.safetensors")
    prefix = "model.action_expert."
    expert.load_state_dict(
        {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    )
    times = [torch.full((1,), index / 10) for index in range(10)]
    with torch.no_grad():
        cache = expert.prepare_modulation_cache(times)
    table = modulation_table(Checkpoint(checkpoint)).reshape(10, -1, 64)
    for step, entry in enumerate(cache):
        chunks = [chunk for block in entry.block_modulations for chunk in block]
        chunks += list(entry.final_modulation)
        scales = [index % 9 % 3 == 1 for index in range(36)] + [False, True]
        for row, chunk, is_scale in zip(table[step], chunks, scales, strict=True):
            np.testing.assert_allclose(row - is_scale, chunk[0].numpy(), rtol=1e-4, atol=1e-5)
