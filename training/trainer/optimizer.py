"""AdamW with a learning rate and a clipped norm for each group of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.distributed.tensor import DTensor

from training.errors import TrainingError
from training.trainer.recipe import OptimizerSettings


def build_optimizer(
    groups: Mapping[str, Sequence[torch.nn.Parameter]], settings: OptimizerSettings
) -> torch.optim.AdamW:
    """Make the optimizer of the groups' trainable parameters; empty groups are left out.

    Raises TrainingError when nothing is trainable.
    """
    entries = []
    for name, parameters in groups.items():
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if trainable:
            entries.append({"name": name, "params": trainable, "lr": settings.rates[name]})
    if not entries:
        raise TrainingError("nothing is trainable; change 'trainable' in the recipe")
    return torch.optim.AdamW(
        entries,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def set_rates(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, share: float
) -> dict[str, float]:
    """Give every group its rate times `share`; returns them by group."""
    for group in optimizer.param_groups:
        group["lr"] = settings.rates[group["name"]] * share
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def clip_gradients(optimizer: torch.optim.Optimizer, clip_norm: float) -> dict[str, torch.Tensor]:
    """Scale each group's gradients down to a norm of `clip_norm`; returns the norms before.

    A parameter that no example of the step used gets a gradient of zeros, so that it is treated
    alike however the step was cut into passes and processes.
    """
    norms = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(group["params"], clip_norm)
        norms[group["name"]] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return norms
