"""AdamW, or Muon for matrices, with a rate and a clipped norm for each group of parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import torch
from torch.distributed.tensor import DTensor

from training.errors import TrainingError
from training.trainer.orthogonal import MatrixAdamW
from training.trainer.recipe import MUON, OptimizerSettings


def build_optimizer(
    groups: Mapping[str, Sequence[torch.nn.Parameter]],
    settings: OptimizerSettings,
    hidden: Collection[torch.nn.Parameter] = (),
) -> torch.optim.AdamW:
    """Make the optimizer of the groups' trainable parameters; empty groups are left out.

    Weights decay, norms' gains and biases do not.

    `hidden` are the matrices between a model's input and its output, to which Muon applies where
    the settings ask for it. Raises TrainingError when nothing is trainable.
    """
    chosen = {id(parameter) for parameter in hidden} if settings.matrices == MUON else set()
    entries = []
    for name, parameters in groups.items():
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        alike: dict[tuple[bool, float], list[torch.nn.Parameter]] = defaultdict(list)
        for one in trainable:
            decay = settings.weight_decay if one.ndim > 1 else 0.0
            alike[id(one) in chosen, decay].append(one)
        entries += [
            {
                "name": name,
                "params": part,
                "lr": settings.rates[name],
                "weight_decay": decay,
                "orthogonal": orthogonal,
            }
            for (orthogonal, decay), part in sorted(alike.items(), key=lambda entry: entry[0])
        ]
    if not entries:
        raise TrainingError("nothing is trainable; change 'trainable' in the recipe")
    return MatrixAdamW(
        entries,
        betas=settings.betas,
        eps=settings.eps,
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
    for name, parameters in named_groups(optimizer).items():
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return norms


def named_groups(optimizer: torch.optim.Optimizer) -> dict[str, list[torch.nn.Parameter]]:
    """Return the parameters that learn, by group."""
    groups = defaultdict(list)
    for group in optimizer.param_groups:
        groups[group["name"]] += group["params"]
    return dict(groups)
