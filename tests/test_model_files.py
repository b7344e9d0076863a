"""A checkpoint is read and written whole, in the released layout, for whoever opens it next."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")

from lerobot.policies.molmoact2.modeling_molmoact2 import _strict_load_safetensors_weights
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)
from safetensors.torch import load_file

from training.errors import CheckpointError, OutputExistsError
from training.init.init_checkpoint import init_checkpoint
from training.init.safetensors_writer import bf16_bits_from_float32
from training.init.sizes import NANO
from training.model.load import empty_model, load_model
from training.model.save import save_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "nano"
    init_checkpoint(folder, NANO, seed=4, dtype="fp32", max_shard_mib=100)
    return folder


@pytest.fixture(scope="module")
def model(source):
    return load_model(source)


INV_FREQ = "model.transformer.rotary_emb.inv_freq"  # follows from rope_theta, computed anew


def tensors_of(folder):
    return {k: v for path in folder.glob("model*.safetensors") for k, v in load_file(path).items()}


def test_what_is_read_and_written_again_is_the_same_checkpoint(source, model, tmp_path):
    out = tmp_path / "deep" / "again"
    save_checkpoint(model, source, out, made_by="molmoact-train run x.yaml --out y")
    names = {path.name for path in source.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    for name in names - {"README.md", "model.safetensors"}:
        assert json.loads((out / name).read_text()) == json.loads((source / name).read_text())
    before, after = tensors_of(source), tensors_of(out)
    assert before.keys() == after.keys()
    torch.testing.assert_close(before.pop(INV_FREQ), after.pop(INV_FREQ))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "molmoact-train run x.yaml --out y" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["again"]  # nothing hidden stays
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}


def test_shards_in_bfloat16_are_rounded_to_nearest_even_and_load_in_the_public_model(
    source, model, tmp_path
):
    out = tmp_path / "small"
    save_checkpoint(model, source, out, torch.bfloat16, max_shard_mib=1)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    assert shards == sorted(path.name for path in out.glob("*.safetensors"))
    largest = max(tensor.numel() * 2 for tensor in model.state_dict().values())
    assert all((out / s).stat().st_size < max(1 << 20, largest) + (1 << 16) for s in shards)
    assert index["metadata"]["total_size"] == 2 * index["metadata"]["total_parameters"]
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    name = "model.transformer.blocks.0.mlp.ff_proj.weight"
    bits = tensors_of(out)[name].view(torch.uint16).numpy()
    np.testing.assert_array_equal(bits, bf16_bits_from_float32(tensors_of(source)[name].numpy()))
    public = MolmoAct2ForConditionalGeneration.from_pretrained(out, dtype=torch.float32)
    _strict_load_safetensors_weights(public, str(out))
    ours = load_model(out)
    theirs = public.state_dict()
    assert all(torch.equal(theirs[k], v) for k, v in ours.state_dict().items() if k != INV_FREQ)


def test_statistics_and_action_tokenizer_come_along(source, model, tmp_path):
    statistics, tokenizer = tmp_path / "mine.json", tmp_path / "openfast"
    statistics.write_text('{"mine": 1}')
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    first, second = tmp_path / "first", tmp_path / "second"
    save_checkpoint(model, source, first, norm_stats=statistics, action_tokenizer=tokenizer)
    save_checkpoint(model, first, second)
    assert (second / "norm_stats.json").read_text() == '{"mine": 1}'
    assert (second / "action_tokenizer" / "tokenizer.json").read_text() == "{}"


def test_an_output_that_exists_is_left_alone_and_a_failure_leaves_nothing(
    source, model, tmp_path, monkeypatch
):
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(OutputExistsError):
        save_checkpoint(model, source, taken)

    def no_room(*_args, **_named):
        raise OSError("No space left on device")

    monkeypatch.setattr("training.model.save.save_file", no_room)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(model, source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_rotary_tables_are_there_and_exact_whatever_the_weights_precision(source):
    exact, coarse = load_model(source), load_model(source, torch.bfloat16)
    assert not any(tensor.is_meta for tensor in [*coarse.buffers(), *coarse.parameters()])
    for model in (exact, coarse):
        rotary = model.model.transformer.rotary_emb
        places = torch.arange(300)[None]
        cos, _ = rotary(torch.zeros(1, 300, 8), places)
        theta = 1e6 ** (-torch.arange(0, 32, 2).double() / 32)
        expected = torch.cos(places[0, :, None] * theta).repeat(1, 2)
        assert (cos[0] - expected).abs().max() < 1e-4
    assert {p.dtype for p in coarse.parameters()} == {torch.bfloat16}


def test_a_model_without_memory_has_every_shape(source):
    empty = empty_model(source)
    assert all(parameter.is_meta for parameter in empty.parameters())
    stored = tensors_of(source)
    assert {k: v.shape for k, v in empty.state_dict().items()} == {
        k: v.shape for k, v in stored.items()
    }


def test_dropout_is_a_setting(source):
    assert {b.dropout.p for b in load_model(source).model.transformer.blocks} == {0.0}
    model = load_model(source, residual_dropout=0.1)
    assert {block.dropout.p for block in model.model.transformer.blocks} == {0.1}


def copied(source, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(source, folder)
    return folder


def test_broken_checkpoints_are_refused_with_file_and_reason(source, tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json; give the folder"):
        load_model(tmp_path)
    folder = copied(source, tmp_path)
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not readable"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(CheckpointError, match="model_type is not molmoact2"):
        load_model(folder)


def test_weights_that_are_not_the_configurations_are_refused(source, tmp_path):
    folder = copied(source, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = config["action_expert_config"]["num_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"such as model\.action_expert.* \(missing\)"):
        load_model(folder)
    config["text_config"]["num_hidden_layers"] = config["action_expert_config"]["num_layers"] = 4
    config["text_config"]["hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"does not fit config\.json"):
        load_model(folder)
