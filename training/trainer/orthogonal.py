"""AdamW that takes Muon's step for matrices.

Muon (K. Jordan, 2024) replaces a matrix's step by the nearest orthogonal one, so that every
direction of its input is learnt at the same pace. Scaled as in arXiv 2502.16982 it takes AdamW's
learning rates. It does not look at single numbers, so a matrix has to be whole: not for sharded
parameters.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

MOMENTUM = 0.95
STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # Jordan 2024: quickest to come near 1
AS_ADAMW = 0.2  # of the root of the longer side: as large as AdamW's steps (arXiv 2502.16982)
SMALLEST_NORM = 1e-7


class MatrixAdamW(torch.optim.AdamW):
    """AdamW; parameter groups with `orthogonal` set take Muon's step with the group's rate."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        groups = self.param_groups
        for group in groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            return super().step(closure) if self.param_groups else None
        finally:
            self.param_groups = groups

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape].append(parameter)
        for shape, parameters in alike.items():
            steps = torch.stack([self._momentum(parameter) for parameter in parameters])
            rate = group["lr"] * AS_ADAMW * max(shape) ** 0.5
            for parameter, step in zip(parameters, orthogonalised(steps), strict=True):
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(step.to(parameter.dtype), alpha=-rate)

    def _momentum(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Take the gradient into the running average; return Nesterov's look ahead of it."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it in every state
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        state["momentum"].lerp_(parameter.grad, 1.0 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of (n, rows, columns) matrices near 1, in bfloat16.

    Newton-Schulz iterations; what comes out lies between 0.7 and 1.2, which serves as well.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if is_tall else matrices).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(SMALLEST_NORM)
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = linear * x + (cubic * gram + quintic * gram @ gram) @ x
    return x.mT if is_tall else x
