"""LoRA: what is adapted and learns, and that merging it back changes no answer."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")
pytest.importorskip("peft")

from lerobot.policies.molmoact2.modeling_molmoact2 import (
    MolmoAct2Policy,
    _strict_load_safetensors_weights,
)
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)
from model_batches import a_batch
from torch import nn

from training.cli import main
from training.errors import CheckpointError
from training.init.init_checkpoint import init_checkpoint
from training.init.sizes import NANO
from training.model.adapt import adapt, has_adapters, merge
from training.model.groups import parameter_groups
from training.model.load import load_model
from training.model.objective import Objective, step_totals
from training.model.save import save_checkpoint
from training.model.settings import Adaptation, DepthSettings, FlowSettings, LossSettings

MERGED = 5e-4  # of logits that adapters move by more than 0.05: W + BA is rounded once
LORA = Adaptation("lora", rank=4, alpha=8, dropout=0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "nano"
    init_checkpoint(folder, NANO, seed=3, dtype="fp32", max_shard_mib=4)
    return folder


def trained(checkpoint, adaptation=LORA, steps=2):
    """Train adapters for a few steps, far enough to be seen."""
    torch.manual_seed(0)
    model = adapt(load_model(checkpoint), adaptation)
    flow = FlowSettings(samples=1, insulation=False)
    objective = Objective(model, LossSettings(), flow, DepthSettings(), 0).train()
    learnt = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=3e-3)
    for _ in range(steps):
        batch = a_batch(model, ["discrete", "depth_act"])
        objective(batch, step_totals([batch])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def answers(model):
    """Give the logits of a batch, and the losses of it."""
    batch = a_batch(model, ["discrete", "depth_act"])
    objective = Objective(model, LossSettings(), FlowSettings(), DepthSettings(), 0).eval()
    with torch.no_grad():
        losses = objective(batch, step_totals([batch]))
        return (
            model.eval()(**batch.model_inputs, use_cache=False).logits,
            losses.flow,
            losses.language,
        )


@pytest.mark.parametrize("expert", [False, True])
def test_the_layers_that_lerobot_adapts_get_adapters(nano, expert):
    plain = load_model(nano)
    policy = SimpleNamespace(config=SimpleNamespace(enable_lora_action_expert=expert))
    pattern = MolmoAct2Policy._lora_target_modules(policy, prefix="model")
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    expected = {name for name in linear if re.fullmatch(pattern, name)}
    model = adapt(load_model(nano), Adaptation("lora", rank=4, alpha=8, expert=expert))
    names = {name for name, _ in model.named_parameters()}
    adapted = {n.removesuffix(".lora_A.default.weight") for n in names if "lora_A" in n}
    assert adapted == expected
    assert any("image_pooling_2d.wq" in name for name in adapted)


@pytest.mark.parametrize("expert", [False, True])
def test_adapters_and_the_expert_learn_and_nothing_else(nano, expert):
    model = adapt(load_model(nano), Adaptation("lora", rank=4, alpha=8, expert=expert))
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, _ in model.named_parameters():
        in_expert = "action_expert." in name and not expert
        assert (name in learns) == (".lora_" in name or "depth_gate" in name or in_expert), name
    groups = parameter_groups(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("action_expert" in names[id(p)] for p in groups["expert"])
    assert any(p.requires_grad for p in groups["connector"])


def test_merged_the_model_answers_as_with_its_adapters(nano):
    model = trained(nano, Adaptation("lora", rank=4, alpha=8, dropout=0.0, expert=True))
    before, untrained = answers(model), answers(load_model(nano))
    assert (before[0] - untrained[0]).abs().max() > 0.05  # the adapters do something
    after = answers(merge(model))
    assert not has_adapters(model)
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=MERGED)
    assert {n for n, _ in model.named_parameters()} == {
        n for n, _ in load_model(nano).named_parameters()
    }


def test_a_lora_checkpoint_is_small_merges_by_command_and_loads_in_the_public_model(
    nano, tmp_path, monkeypatch, capsys
):
    model = trained(nano)
    run = tmp_path / "run"
    save_checkpoint(model, nano, run / "checkpoint")
    files = {path.name for path in (run / "checkpoint").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "trained.safetensors"} <= files
    assert not any(name.startswith("model") for name in files)
    out = tmp_path / "merged"
    assert main(["merge", str(run), str(out)]) == 0
    assert "adapters merged, fp32" in capsys.readouterr().out
    public = MolmoAct2ForConditionalGeneration.from_pretrained(out, dtype=torch.float32)
    _strict_load_safetensors_weights(public, str(out))
    batch = a_batch(model, ["discrete", "depth_act"])
    with torch.no_grad():
        theirs = public.eval()(**batch.model_inputs, use_cache=False).logits
    torch.testing.assert_close(theirs, answers(model)[0], rtol=1e-4, atol=MERGED)
    for ours, loaded in zip(answers(model), answers(load_model(run / "checkpoint")), strict=True):
        torch.testing.assert_close(ours, loaded, rtol=1e-4, atol=MERGED)
    assert main(["merge", str(run), str(out)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_the_adapters_are_a_folder_that_peft_opens(nano, tmp_path):
    import peft

    model = trained(nano, Adaptation("lora", rank=4, alpha=8, dropout=0.0, expert=True))
    save_checkpoint(model, nano, tmp_path / "adapters")
    opened = peft.PeftModel.from_pretrained(load_model(nano), str(tmp_path / "adapters"))
    batch = a_batch(model, ["discrete"])
    with torch.no_grad():
        theirs = opened.eval()(**batch.model_inputs, use_cache=False).logits
        ours = model.eval()(**batch.model_inputs, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=MERGED)


def test_a_plain_checkpoint_is_written_with_half_the_bytes(nano, tmp_path):
    assert main(["merge", str(nano), str(tmp_path / "half"), "--dtype", "bf16"]) == 0
    sizes = [
        sum(p.stat().st_size for p in f.glob("*.safetensors")) for f in (nano, tmp_path / "half")
    ]
    assert sizes[1] < 0.51 * sizes[0]
    rounded = dict(load_model(tmp_path / "half").named_parameters())
    for name, weights in load_model(nano).named_parameters():
        assert torch.equal(rounded[name], weights.bfloat16().float()), name


def test_what_cannot_be_merged_is_refused(nano, tmp_path, capsys):
    assert main(["merge", str(nano), str(tmp_path / "out")]) == 2
    assert "nothing to merge, it is a plain checkpoint" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "absent"), str(tmp_path / "out")]) == 2
    assert "absent: no such folder" in capsys.readouterr().err
    save_checkpoint(adapt(load_model(nano), LORA), nano, tmp_path / "lora")
    config = tmp_path / "lora" / "adapter_config.json"
    settings = json.loads(config.read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "moved")
    config.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"belong to .*moved, which is not there; name"):
        load_model(tmp_path / "lora")
    given = ["merge", str(tmp_path / "lora"), str(tmp_path / "out"), "--base", str(nano)]
    assert main([*given, "--dtype", "bf16"]) == 0
    assert load_model(tmp_path / "out").config.dtype == torch.bfloat16
