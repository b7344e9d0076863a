import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.cli import main
from training.init import init_checkpoint as init_module
from training.init.checkpoint_config import TOKEN_FIELDS
from training.init.norm_stats import NORM_TAG
from training.init.safetensors_writer import bf16_bits_from_float32, write_checkpoint_weights
from training.init.sizes import NANO, SIZES
from training.init.tensor_layout import TensorSpec, tensor_layout

ROOT = Path(__file__).resolve().parent.parent
NANO_FOLDER = ROOT / "checkpoints" / "nano"
# SHA-256 of what `molmoact-train init OUT` has to write.
WRITTEN = {
    "README.md": "9081c97c9edf4739fa6242ca38996ad08c0d416d5dedc34ff94135af2721a484",
    "config.json": "8d63ab2b7ef976384861cda141f4550f8513e923afe485d7c6791292cb1da1ea",
    "generation_config.json": "74b595fb0fcd65b38aa87d7cdce1e1f2d069039bd08f0ab79206bdfdc494f7d9",
    "model.safetensors": "1ab1005a634c777264d740e3f03ecb816e21bf0779be293e570d6574d62e638f",
    "norm_stats.json": "cd35080478c1fbcefb773d768724fb6a4dd07ffff8cdc0a8b5a966672623fa16",
    "processor_config.json": "3682739bd1c9b501634fdc4eff2aa450b3087233279c897c52de349f83402828",
    "tokenizer.json": "038506dac8125c5bbcb99e55d6ae3040391654c655844f1e2a7c060a937e399f",
    "tokenizer_config.json": "6c53f14ae45d056a3c28e45cecad269dd5ad33a4a90c543ab9a11c374b30cc39",
}


@pytest.fixture(scope="module")
def nano(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("init") / "nano"
    assert main(["init", str(out)]) == 0
    return out


def test_init_writes_the_same_bytes_on_every_machine(nano):
    assert _digests(nano) == WRITTEN


def test_shipped_nano_is_under_12_mb():
    files = [path for path in NANO_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12_000_000


def test_card_names_the_command(nano):
    card = (nano / "README.md").read_text()
    assert "molmoact-train init OUT --size nano --seed 0 --dtype fp32" in card


def test_another_seed_gives_other_weights_only(nano, tmp_path):
    assert main(["init", str(tmp_path / "b"), "--seed", "1"]) == 0
    before, after = _digests(nano), _digests(tmp_path / "b")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"README.md", "model.safetensors"}


def test_init_never_loads_torch(tmp_path):
    code = (
        "import sys; from training.cli import main; main(['init', sys.argv[1]]);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        check=True,
        env=environment,
        capture_output=True,
    )


def test_existing_output_is_refused_and_kept(nano, capsys):
    before = _digests(nano)
    assert main(["init", str(nano)]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"molmoact-train: error: {nano} already exists; remove it or choose another output path\n"
    )
    assert _digests(nano) == before


def test_unknown_size_is_refused_with_the_known_ones(tmp_path, capsys):
    assert main(["init", str(tmp_path / "x"), "--size", "huge"]) == 2
    error = capsys.readouterr().err
    assert (
        error == f"molmoact-train: error: unknown size 'huge'; choose one of: {', '.join(SIZES)}\n"
    )


def test_output_in_a_missing_folder_is_refused(tmp_path, capsys):
    assert main(["init", str(tmp_path / "no" / "x")]) == 2
    assert "does not exist; create it first" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["init"], ["init", "x", "--dtype", "int3"], ["fly"]])
def test_bad_usage_is_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"molmoact-train: error: .*--help'\n", error)


def test_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(spec: TensorSpec, *_args):
        if "vision" in spec.name:
            raise KeyboardInterrupt
        return np.zeros(spec.shape, np.float32)

    monkeypatch.setattr(init_module, "random_tensor", fail)
    assert main(["init", str(tmp_path / "x")]) == 130
    assert list(tmp_path.iterdir()) == []


def test_size_table_counts_what_was_written(tmp_path, capsys):
    assert main(["init", str(tmp_path / "x")]) == 0
    printed = capsys.readouterr().out
    parameters = sum(spec.elements for spec in tensor_layout(NANO))
    assert f"{parameters:,}" in printed
    assert f"{sum(p.stat().st_size for p in (tmp_path / 'x').iterdir()):,}" in printed


def test_without_expert_everything_else_is_the_same(nano, tmp_path):
    assert main(["init", str(tmp_path / "x"), "--without-expert"]) == 0
    whole = _read_safetensors(nano / "model.safetensors")
    backbone = _read_safetensors(tmp_path / "x" / "model.safetensors")
    assert set(backbone) == {name for name in whole if "action_expert" not in name}
    for name, values in backbone.items():
        np.testing.assert_array_equal(values, whole[name])
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (config["add_action_expert"], config["action_mode"]) == (False, "discrete")
    assert config["action_expert_config"]["hidden_size"] == NANO.expert.width


def test_shards_hold_the_tensors_of_the_single_file(nano, tmp_path):
    assert main(["init", str(tmp_path / "x"), "--max-shard-mib", "3"]) == 0
    index = json.loads((tmp_path / "x" / "model.safetensors.index.json").read_text())
    whole = _read_safetensors(nano / "model.safetensors")
    assert set(index["weight_map"]) == set(whole)
    assert index["metadata"]["total_size"] == sum(raw.nbytes for raw in whole.values())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) >= 4
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        path = tmp_path / "x" / file
        assert path.stat().st_size < 3.1 * 2**20
        for name, values in _read_safetensors(path).items():
            assert index["weight_map"][name] == file
            np.testing.assert_array_equal(values, whole[name])


def test_half_precision_files_are_the_rounded_values(nano, tmp_path):
    whole = _read_safetensors(nano / "model.safetensors")
    for dtype, tolerance in (("bf16", 2.0**-8), ("fp16", 2.0**-10)):
        assert main(["init", str(tmp_path / dtype), "--dtype", dtype]) == 0
        rounded = _read_safetensors(tmp_path / dtype / "model.safetensors")
        for name, values in whole.items():
            np.testing.assert_allclose(rounded[name], values, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (1.00390625, 0x3F80),  # half way between two values: the even one below
        (1.01171875, 0x3F82),  # half way: the even one above
        (0.0, 0x0000),
        (3.3895314e38, 0x7F7F),
    ],
)
def test_bf16_rounds_to_nearest_even(value, bits):
    assert bf16_bits_from_float32(np.array([value], np.float32))[0] == bits


def test_tensor_larger_than_a_shard_gets_its_own(tmp_path):
    layout = (TensorSpec("a", (2,)), TensorSpec("b", (100,)), TensorSpec("c", (2,)))
    paths = write_checkpoint_weights(
        tmp_path,
        layout,
        lambda spec: np.ones(spec.shape, np.float32),
        dtype="fp32",
        max_shard_bytes=64,
    )
    assert [list(_read_safetensors(path)) for path in paths] == [["a"], ["b"], ["c"]]


def test_weights_are_finite_and_none_is_left_out(nano):
    weights = _read_safetensors(nano / "model.safetensors")
    assert list(weights) == [spec.name for spec in tensor_layout(NANO)]
    for spec in tensor_layout(NANO):
        assert weights[spec.name].shape == spec.shape
        assert np.isfinite(weights[spec.name]).all()
        assert np.abs(weights[spec.name]).max() > 0


def test_config_ids_are_those_of_the_tokenizer(nano):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(nano / "tokenizer.json"))
    config = json.loads((nano / "config.json").read_text())
    for field, token in TOKEN_FIELDS.items():
        assert tokenizer.id_to_token(config[field]) == token
    last = config["depth_token_start_id"] + config["num_depth_tokens"] - 1
    assert tokenizer.id_to_token(last) == "<depth_127>"


def test_norm_stats_are_in_order(nano):
    stats = json.loads((nano / "norm_stats.json").read_text())
    assert stats["format"] == "molmoact2_norm_stats.v1"
    assert stats["norm_mode"] == "q01_q99"
    tag = stats["metadata_by_tag"][NORM_TAG]
    assert tag["action_horizon"] == tag["n_action_steps"] == 30
    for feature in ("state_stats", "action_stats"):
        fields = ("q01", "q10", "q50", "q90", "q99")
        table = np.array([tag[feature][field] for field in fields])
        assert table.shape == (len(fields), 6)
        assert (np.diff(table, axis=0) > 0).all()
        assert (np.array(tag[feature]["min"]) <= table[0]).all()
        assert (np.array(tag[feature]["max"]) >= table[-1]).all()
        assert (np.array(tag[feature]["std"]) > 0).all()
        assert len(tag[feature]["names"]) == len(tag[feature]["mask"]) == 6


def test_reference_model_has_exactly_these_tensors(nano):
    model, _ = _reference(nano)
    expected = {spec.name: spec.shape for spec in tensor_layout(NANO)}
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == expected


def test_reference_model_ends_its_depth_span_and_stays_in_range(nano):
    model, processor = _reference(nano)
    first = _act(model, processor, step=0)
    codes = first.depth_bins[0].numpy()
    assert codes.shape == (100,)
    assert len(set(codes.tolist())) > 10
    assert first.generated_token_ids.shape == (1, 102)  # start, codes, end: nothing in between
    actions = _normalised(nano, first)
    assert actions.shape == (30, 6)
    assert np.abs(actions).max() < 1.0
    assert np.abs(np.diff(actions, axis=0)).max() < 0.1  # smooth
    assert np.ptp(actions, axis=0).max() > 0.05  # and moving


def test_reference_model_listens_to_every_input(nano):
    model, processor = _reference(nano)
    base = _act(model, processor, step=0)
    codes, actions = base.depth_bins[0].numpy(), _normalised(nano, base)
    moved = _act(model, processor, step=3)
    assert 0 < (moved.depth_bins[0].numpy() != codes).sum() < 100
    for other in (
        moved,
        _act(model, processor, step=0, state_shift=8.0),
        _act(model, processor, step=0, noise_seed=1),
        _act(model, processor, step=0, task="open the drawer"),
    ):
        assert np.abs(_normalised(nano, other) - actions).max() > 0.01
    follow_up = _act(model, processor, step=3, cache=base.depth_cache)
    carried = (follow_up.depth_bins[0].numpy() == codes).sum()
    assert carried > 50  # cells in which nothing moved keep their codes
    assert carried < 100


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            bits = np.frombuffer(raw[start:end], "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        else:
            values = np.frombuffer(raw[start:end], {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def _reference(checkpoint: Path):
    pytest.importorskip("lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2")
    sys.path.insert(0, str(ROOT / "tests"))
    from make_reference import load_reference

    return load_reference(checkpoint)


def _act(model, processor, *, step, state_shift=0.0, noise_seed=0, cache=None, task="lift it"):
    import torch
    from make_reference import moving_scene

    frames = moving_scene(np.random.default_rng(0), cameras=2, frames=step + 1)
    state = np.array([3.1, 123.2, 124.4, 57.9, -11.0, 9.2], np.float32) + np.float32(state_shift)
    return model.predict_action(
        processor=processor,
        images=frames[step],
        task=task,
        state=state,
        norm_tag=NORM_TAG,
        inference_action_mode="continuous",
        enable_depth_reasoning=True,
        depth_cache=cache,
        enable_cuda_graph=False,
        generator=torch.Generator().manual_seed(noise_seed),
    )


def _normalised(checkpoint: Path, result) -> np.ndarray:
    tag = json.loads((checkpoint / "norm_stats.json").read_text())["metadata_by_tag"][NORM_TAG]
    low, high = (np.array(tag["action_stats"][field]) for field in ("q01", "q99"))
    return 2 * (result.actions[0].numpy() - low) / (high - low) - 1
