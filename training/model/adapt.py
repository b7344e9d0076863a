"""Which parameters learn: all, the expert's, or LoRA adapters in the vision-language model."""

from __future__ import annotations

from collections.abc import Iterator

import peft
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from training.model.settings import Adaptation, SettingsError

_READS = ("model.transformer.", "model.vision_backbone.")  # the vision-language model
_EXPERT = "model.action_expert."


def adapt(
    model: MolmoAct2ForConditionalGeneration, adaptation: Adaptation
) -> MolmoAct2ForConditionalGeneration:
    """Make the model learn what `adaptation` says, in place. Adapters stay out of the heads.

    The depth gate always learns with the expert. Adapters' weights come from torch's global
    generator. Raises SettingsError when there is nothing to train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(adaptation.kind == "full" or "action_expert" in name)
    if adaptation.freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    if adaptation.kind == "lora":
        peft.inject_adapter_in_model(lora_config(model, adaptation), model)
        _train_expert(model, fully=not adaptation.expert)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError(
            f"trainable is {adaptation.kind!r}, but the checkpoint has no action expert; graft one "
            "or train fully"
        )
    return model


def lora_config(
    model: MolmoAct2ForConditionalGeneration, adaptation: Adaptation
) -> peft.LoraConfig:
    """Describe the adapters to peft: one beside each linear layer that LeRobot adapts too."""
    parts = (*_READS, _EXPERT) if adaptation.expert else _READS
    return peft.LoraConfig(
        r=adaptation.rank,
        lora_alpha=adaptation.alpha,
        lora_dropout=adaptation.dropout,
        target_modules=[
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(parts)
        ],
    )


def has_adapters(model: nn.Module) -> bool:
    """Tell whether LoRA adapters are in the model."""
    return any(True for _ in _adapters(model))


def merge(model: MolmoAct2ForConditionalGeneration) -> MolmoAct2ForConditionalGeneration:
    """Add every adapter to the weights that it stands beside and take it out, in place."""
    for name, layer in list(_adapters(model)):
        layer.merge(safe_merge=True)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    model.__dict__.pop("peft_config", None)
    return model


def _train_expert(model: MolmoAct2ForConditionalGeneration, *, fully: bool) -> None:
    """Say again what peft froze: the gate learns, and the expert too unless it has adapters."""
    for name, parameter in model.named_parameters():
        if "action_expert_depth_gate" in name or (fully and "action_expert" in name):
            parameter.requires_grad_(True)


def _adapters(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module
