"""The flow-matching loss of the action expert, given the decoder's keys and values.

The path and the masks are LeRobot's: x_t = (1 - t) noise + t actions, the velocity to learn is
actions - noise, unused dimensions are left out of the mean, steps past an episode's end count as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import ActionExpert
from torch.utils.checkpoint import checkpoint

KeysValues = Sequence[tuple[torch.Tensor, torch.Tensor]]


@dataclass(slots=True)
class FlowTargets:
    """Chunks to learn: R rows, K samples, horizon H, D dimensions."""

    actions: torch.Tensor  # (R, H, D) float32
    noise: torch.Tensor  # (R, K, H, D) float32
    times: torch.Tensor  # (R, K) float32
    dim_is_pad: torch.Tensor  # (R, D) bool
    horizon_is_pad: torch.Tensor  # (R, H) bool

    def path(self, mask_dims: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the points x_t and the velocities there, both (R, K, H, D)."""
        actions, noise = self.actions[:, None], self.noise
        if mask_dims:
            unused = self.dim_is_pad[:, None, None, :]
            actions, noise = actions.masked_fill(unused, 0), noise.masked_fill(unused, 0)
        times = self.times[:, :, None, None]
        return (1 - times) * noise + times * actions, actions - noise


def flow_losses(
    expert: ActionExpert,
    keys_values: KeysValues,
    visible: torch.Tensor,
    targets: FlowTargets,
    *,
    mask_dims: bool,
    recompute: bool = False,
) -> torch.Tensor:
    """Give each row's loss, (R,) float32.

    `keys_values` has one pair (R, T, kv_width) a layer, `visible` (R, T) bool says which tokens the
    expert may look at. `recompute` saves memory by running each block again in the backward pass.
    """
    points, velocity = targets.path(mask_dims)
    predicted = _velocity(expert, keys_values, visible, targets, points, recompute)
    loss = (predicted.float() - velocity).square()
    loss = loss.masked_fill(targets.horizon_is_pad[:, None, :, None], 0)
    if mask_dims:
        used = (~targets.dim_is_pad).float()
        loss = (loss * used[:, None, None, :]).sum(-1) / used.sum(-1).clamp_min(1)[:, None, None]
    return loss.flatten(1).mean(dim=1)


def _velocity(
    expert: ActionExpert,
    keys_values: KeysValues,
    visible: torch.Tensor,
    targets: FlowTargets,
    points: torch.Tensor,
    recompute: bool,
) -> torch.Tensor:
    """Run the expert's blocks; every sample of a row looks at the same keys and values."""
    rows, samples, horizon, _ = points.shape
    dtype, device = points.dtype, points.device
    valid = (~targets.horizon_is_pad).to(dtype)[:, :, None].repeat_interleave(samples, dim=0)
    cross_mask = expert._build_cross_attention_mask(visible, rows, dtype)
    self_mask = expert._build_self_attention_mask(~targets.horizon_is_pad, horizon, device, dtype)
    masks = {
        "attn_mask": cross_mask.repeat_interleave(samples, dim=0),
        "self_attn_mask": self_mask.repeat_interleave(samples, dim=0),
        "is_causal": expert.config.causal_attn,
        "rope_cache": _rope_cache(expert, horizon, device, dtype),
    }
    conditioning = expert._time_conditioning(targets.times.flatten())

    def run_block(
        index: int, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        block = expert.blocks[index]
        k = expert._project_kv_tensor(keys, expert.context_k_proj)
        v = expert._project_kv_tensor(values, expert.context_v_proj)
        if block.cross_attn.k_norm is not None:
            k = block.cross_attn.k_norm(k.transpose(1, 2)).transpose(1, 2)
        cross_kv = (k.repeat_interleave(samples, dim=0), v.repeat_interleave(samples, dim=0))
        return block(x, conditioning, cross_kv=cross_kv, **masks) * valid

    x = expert.action_embed(points.flatten(0, 1)) * valid
    for index, (keys, values) in enumerate(keys_values):
        if recompute and torch.is_grad_enabled():
            x = checkpoint(run_block, index, x, keys, values, use_reentrant=False)
        else:
            x = run_block(index, x, keys, values)
    return (expert.final_layer(x, conditioning) * valid).view(rows, samples, horizon, -1)


def _rope_cache(
    expert: ActionExpert, horizon: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor] | None:
    rope = expert.blocks[0].self_attn.rope
    return None if rope is None else rope.build_cache(seq_len=horizon, device=device, dtype=dtype)
