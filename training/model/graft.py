"""Adds to a checkpoint what its next stage needs: an action expert, a depth gate.

What is there already stays as it is. The new parts begin as the release begins them: modulations
and output layer of the expert are zero, so that it changes nothing at first; a gate has no weights
and a bias of -4, so that depth tokens come in slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from lerobot.policies.molmoact2.molmoact2_hf_model.configuration_molmoact2 import (
    MolmoAct2ActionExpertConfig,
    MolmoAct2Config,
)
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    ActionExpert,
    MolmoAct2ForConditionalGeneration,
    MolmoAct2Model,
)
from torch import nn

from training.model.settings import GateKind, SettingsError

ActionMode = Literal["continuous", "discrete", "both"]

# Shape of the released expert (arXiv 2605.02881, table 15), for checkpoints that state none.
RELEASED_EXPERT = {"hidden_size": 768, "num_heads": 8, "mlp_ratio": 4.0}
# What the decoder and the checkpoint decide, not the expert's own shape.
_GIVEN = ("model_type", "num_layers", "max_action_dim", "max_action_horizon")
GATE_BIAS = -4.0


def graft(
    model: MolmoAct2ForConditionalGeneration,
    *,
    expert: bool,
    depth_gate: GateKind,
    action_mode: ActionMode | None = None,
    expert_shape: Mapping[str, object] | None = None,
) -> MolmoAct2ForConditionalGeneration:
    """Add what is asked for and missing, in place; the configuration tells of it.

    New weights come from torch's global generator. `expert_shape` holds fields of the expert's
    configuration, as the `action_expert_config` of a config.json does. Without `action_mode` a
    discrete checkpoint that gets an expert becomes `both`. Raises SettingsError when the checkpoint
    cannot have what is asked.
    """
    config, backbone = model.config, model.model
    if expert and backbone.action_expert is None:
        _add_expert(config, backbone, expert_shape or RELEASED_EXPERT)
    if depth_gate != "none":
        _add_gate(config, backbone, per_layer=depth_gate == "per-layer")
    if action_mode is not None:
        if action_mode != "discrete" and backbone.action_expert is None:
            raise SettingsError(
                f"action mode {action_mode!r} needs an action expert, which the checkpoint lacks; "
                "graft one or use 'discrete'"
            )
        config.action_mode = action_mode
    return model


def _add_expert(
    config: MolmoAct2Config, backbone: MolmoAct2Model, shape: Mapping[str, object]
) -> None:
    text = config.text_config
    own = {name: value for name, value in shape.items() if name not in _GIVEN}
    config.action_expert_config = MolmoAct2ActionExpertConfig(
        **own,
        num_layers=text.num_hidden_layers,
        max_action_dim=config.max_action_dim,
        max_action_horizon=config.max_action_horizon,
    )
    config.add_action_expert = True
    if config.action_mode == "discrete":
        config.action_mode = "both"
    grafted = ActionExpert(
        config.action_expert_config,
        llm_dim=text.hidden_size,
        llm_kv_dim=text.num_key_value_heads * text.head_dim,
        llm_num_layers=text.num_hidden_layers,
    )
    backbone.action_expert = _like(backbone, grafted)


def _add_gate(config: MolmoAct2Config, backbone: MolmoAct2Model, *, per_layer: bool) -> None:
    if backbone.action_expert is None:
        raise SettingsError("depth.gate needs an action expert, which the checkpoint lacks")
    if config.depth_token_start_id is None or not config.num_depth_tokens:
        raise SettingsError(
            "depth.gate needs depth tokens, but config.json gives no depth_token_start_id; start "
            "from a checkpoint whose tokenizer has them, or set depth.gate to none"
        )
    config.enable_depth_reasoning = True
    if backbone.action_expert_depth_gate is not None:
        if per_layer != bool(config.action_expert_depth_gate_per_layer):
            there = "shared" if per_layer else "per-layer"
            raise SettingsError(f"the checkpoint's depth gate is {there}; set depth.gate to that")
        return
    text = config.text_config
    width, layers = text.num_key_value_heads * text.head_dim, text.num_hidden_layers
    gate = nn.ModuleList(nn.Linear(width, 1) for _ in range(layers))
    backbone.action_expert_depth_gate = _like(backbone, gate if per_layer else gate[0])
    config.action_expert_depth_gate = True
    config.action_expert_depth_gate_per_layer = per_layer
    config.action_expert_depth_gate_init_bias = GATE_BIAS
    backbone.reset_action_expert_depth_gate_parameters()
    backbone._depth_gate_token_ids = backbone._resolve_depth_gate_token_ids()


def _like(backbone: MolmoAct2Model, part: nn.Module) -> nn.Module:
    weight = backbone.transformer.ln_f.weight
    return part.to(weight.device, weight.dtype).train(backbone.training)
