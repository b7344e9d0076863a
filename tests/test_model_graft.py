"""What a stage adds to a checkpoint, and which parameters then learn."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")

from lerobot.policies.molmoact2.modeling_molmoact2 import MolmoAct2Policy
from model_batches import a_batch
from safetensors.torch import load_file, save_file

from training.init.init_checkpoint import init_checkpoint
from training.init.sizes import NANO
from training.model.adapt import adapt
from training.model.graft import graft
from training.model.groups import parameter_groups
from training.model.load import load_model, read_config
from training.model.objective import Objective, step_totals
from training.model.save import save_checkpoint
from training.model.settings import (
    Adaptation,
    DepthSettings,
    FlowSettings,
    LossSettings,
    SettingsError,
)

NANO_EXPERT = {
    "hidden_size": 96,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "ffn_multiple_of": 32,
    "timestep_embed_dim": 64,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Give a checkpoint of a vision-language model that speaks action tokens, without expert."""
    folder = tmp_path_factory.mktemp("graft") / "backbone"
    init_checkpoint(folder, NANO, seed=6, dtype="fp32", max_shard_mib=100)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "action_expert" not in name}
    save_file(kept, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"add_action_expert": False, "action_mode": "discrete"}
    config |= {"enable_depth_reasoning": False, "action_expert_depth_gate": False}
    config["action_expert_depth_gate_per_layer"] = False
    del config["action_expert_config"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("gate", "per_layer"), [("per-layer", True), ("shared", False)])
def test_a_grafted_checkpoint_is_written_so_that_it_loads_with_all_its_parts(
    backbone, tmp_path, gate, per_layer
):
    before = load_model(backbone).state_dict()
    model = graft(load_model(backbone), expert=True, depth_gate=gate, expert_shape=NANO_EXPERT)
    save_checkpoint(model, backbone, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["action_mode"] == "both"
    assert config["add_action_expert"] is config["enable_depth_reasoning"] is True
    assert config["action_expert_depth_gate"] is True
    assert config["action_expert_depth_gate_per_layer"] is per_layer
    assert config["action_expert_config"]["hidden_size"] == 96
    again = load_model(tmp_path / "out")
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in before.items())
    assert again.model._depth_gate_token_ids == model.model._depth_gate_token_ids != ()


def test_a_new_expert_predicts_nothing_at_first_and_a_new_gate_hardly_opens(backbone):
    model = graft(
        load_model(backbone), expert=True, depth_gate="per-layer", expert_shape=NANO_EXPERT
    )
    expert, gates = model.model.action_expert, model.model.action_expert_depth_gate
    for block in expert.blocks:
        assert not block.modulation.linear.weight.any()
    assert not expert.final_layer.linear.weight.any()
    assert len(gates) == 4
    for gate in gates:
        opening = torch.sigmoid(gate(torch.randn(3, 64)))
        torch.testing.assert_close(opening, torch.full((3, 1), 0.01799), atol=1e-5, rtol=0)
    batch = a_batch(model, ["depth_act"])
    objective = Objective(model, LossSettings(), FlowSettings(), DepthSettings(), 0)
    objective(batch, step_totals([batch])).loss.backward()
    assert expert.final_layer.linear.weight.grad.any()


def test_an_expert_is_grafted_in_the_shape_that_the_checkpoint_plans(tmp_path):
    for name, size in (("whole", NANO), ("backbone", NANO.without_expert())):
        init_checkpoint(tmp_path / name, size, seed=1, dtype="fp32", max_shard_mib=100)
    planned = read_config(tmp_path / "backbone")["action_expert_config"]
    model = load_model(tmp_path / "backbone")
    graft(model, expert=True, depth_gate="per-layer", expert_shape=planned)
    whole = load_model(tmp_path / "whole")
    shapes = {name: tensor.shape for name, tensor in whole.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes


def test_grafting_takes_nothing_away_and_changes_only_what_is_asked(tmp_path):
    folder = tmp_path / "nano"
    init_checkpoint(folder, NANO, seed=1, dtype="fp32", max_shard_mib=100)
    model = load_model(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graft(model, expert=False, depth_gate="none")
    graft(model, expert=True, depth_gate="per-layer")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.config.action_mode == "both"
    graft(model, expert=True, depth_gate="none", action_mode="continuous")
    assert model.model.config.action_mode == "continuous"
    with pytest.raises(SettingsError, match=r"depth gate is per-layer; set depth\.gate to that"):
        graft(model, expert=True, depth_gate="shared")


def test_what_cannot_be_grafted_is_refused(backbone):
    model = load_model(backbone)
    with pytest.raises(SettingsError, match="needs an action expert"):
        graft(model, expert=False, depth_gate="shared")
    with pytest.raises(SettingsError, match="'both' needs an action expert"):
        graft(model, expert=False, depth_gate="none", action_mode="both")
    model.config.depth_token_start_id = None
    with pytest.raises(SettingsError, match="gives no depth_token_start_id"):
        graft(model, expert=True, depth_gate="shared", expert_shape=NANO_EXPERT)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups") / "nano"
    init_checkpoint(folder, NANO, seed=1, dtype="fp32", max_shard_mib=100)
    return folder


def test_groups_hold_every_parameter_once_sorted_as_lerobot_sorts(nano):
    model = load_model(nano)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model)
    found = [names[id(p)] for part in groups.values() for p in part]
    assert sorted(found) == sorted(names.values())

    class Settings:
        enable_lora_vlm = False
        optimizer_lr, optimizer_vit_lr = "decoder", "vision"
        optimizer_connector_lr, optimizer_action_expert_lr = "connector", "expert"

    policy = torch.nn.Module()
    policy.model, policy.config = model, Settings
    for group in MolmoAct2Policy.get_optim_params(policy):
        assert {id(p) for p in group["params"]} == {id(p) for p in groups[group["lr"]]}


def test_expert_only_training_moves_the_expert_and_its_gate_alone(nano):
    model = adapt(load_model(nano), Adaptation("expert"))
    batch = a_batch(model, ["depth_act", "question"])
    flow = FlowSettings(samples=1, insulation=False)
    objective = Objective(model, LossSettings(), flow, DepthSettings(), 0)
    objective(batch, step_totals([batch])).loss.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in model.named_parameters() if "action_expert" in name}
    questions = a_batch(model, ["question"])  # teach the expert nothing
    objective(questions, step_totals([questions])).loss.backward()
    assert not model.model.transformer.training
    assert model.model.action_expert.training


def test_frozen_embeddings_leave_head_and_final_norm_to_learn(nano):
    model = adapt(load_model(nano), Adaptation(freeze_embeddings=True))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    prefix = "model.transformer.wte"
    assert frozen == {f"{prefix}.embedding", f"{prefix}.new_embedding"}
    assert all(p.requires_grad for p in adapt(model, Adaptation()).parameters())


def test_training_an_expert_that_is_not_there_is_refused(backbone):
    with pytest.raises(SettingsError, match="has no action expert; graft one or train fully"):
        adapt(load_model(backbone), Adaptation("expert"))
