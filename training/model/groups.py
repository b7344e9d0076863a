"""Which part of the model a parameter belongs to; each part has a learning rate of its own."""

from __future__ import annotations

from torch import nn

from training.model.settings import GROUPS

_CONNECTOR = ("image_pooling_2d", "image_projector")
# Tables, and what meets pixels, actions, times, tokens or a gate.
_EDGES = ("wte", "lm_head", "embed", "final_layer", "lora_", "depth_gate")


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Sort the parameters, trainable or not, by part (LeRobot's `get_optim_params`).

    The depth gate belongs to the expert, embeddings and head to the decoder; a LoRA adapter to the
    part that it adapts.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for name, parameter in model.named_parameters():
        groups[_group(name)].append(parameter)
    return groups


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices that turn features into features: no embeddings, no inputs or outputs."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and not any(part in name for part in _EDGES)
    ]


def _group(name: str) -> str:
    if "action_expert" in name:
        return "expert"
    if any(part in name for part in _CONNECTOR):
        return "connector"
    return "vision" if "vision_backbone" in name else "decoder"
