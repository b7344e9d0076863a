"""A batch as the model takes it; every array is a torch tensor, the first axis the example."""

from __future__ import annotations

from dataclasses import dataclass

import torch

IGNORED = -100  # the label of a token that is not learnt
# Of the model's inputs, those that a batch has where it has pictures.
PICTURE_INPUTS = ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops")


@dataclass(slots=True)
class Batch:
    """What one pass works on. B examples, T tokens (right-padded), P crops of pictures."""

    model_inputs: dict[str, torch.Tensor]  # of MolmoAct2's forward: input_ids, attention_mask, ...
    labels: torch.Tensor  # (B, T) int64, the token itself where it is learnt, else -100
    actions: torch.Tensor  # (B, horizon, max_action_dim) float32, normalised, zeros where unused
    dim_is_pad: torch.Tensor  # (B, max_action_dim) bool
    horizon_is_pad: torch.Tensor  # (B, horizon) bool
    has_actions: torch.Tensor  # (B,) bool, False where the flow loss does not count
    numbers: torch.Tensor  # (B,) int64, of the examples: they seed the flow's noise and times
    sources: tuple[str, ...]  # of the examples

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to `device`."""
        return Batch(
            model_inputs={k: v.to(device) for k, v in self.model_inputs.items()},
            labels=self.labels.to(device),
            actions=self.actions.to(device),
            dim_is_pad=self.dim_is_pad.to(device),
            horizon_is_pad=self.horizon_is_pad.to(device),
            has_actions=self.has_actions.to(device),
            numbers=self.numbers.to(device),
            sources=self.sources,
        )
