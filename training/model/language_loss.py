"""The loss of saying the right tokens, with the weights that LeRobot gives them."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.examples.batch import IGNORED
from training.model.settings import TokenWeighting


def next_labels(labels: torch.Tensor) -> torch.Tensor:
    """Shift labels (B, T) so that each stands where it is predicted; the last place is ignored."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def token_weights(labels: torch.Tensor, weighting: TokenWeighting) -> torch.Tensor:
    """Give the weight of every place of shifted labels (B, T): float32, 0 where nothing is learnt.

    `root_tokens` gives an example 2 / sqrt(its tokens) a token (LeRobot, `root_tokens` and
    `root_subsegments_root_tokens`), so that long answers count more, but not in proportion.
    """
    learnt = (labels != IGNORED).float()
    if weighting == "none":
        return learnt
    return learnt * 2 * learnt.sum(dim=1, keepdim=True).clamp_min(1).rsqrt()


def language_loss(
    head: torch.nn.Module,
    hidden: torch.Tensor,
    labels: torch.Tensor,
    weighting: TokenWeighting,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum weight * cross-entropy and weight * log_z ** 2 over the tokens to learn.

    `hidden` is (B, T, width), `labels` (B, T) as the batch has them. Logits are computed in no
    other place than those that are learnt.
    """
    labels = next_labels(labels)
    learnt = labels != IGNORED
    weights = token_weights(labels, weighting)[learnt]
    logits = head(hidden[learnt]).float()
    log_z = logits.logsumexp(dim=-1)
    said = logits.gather(-1, labels[learnt][:, None]).squeeze(-1)
    return (weights * (log_z - said)).sum(), (weights * log_z.square()).sum()
