"""Learning rates: a linear warm-up, then half a cosine down to a share of the highest rate."""

from __future__ import annotations

import math

from training.trainer.recipe import OptimizerSettings


def rate_share(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Return the share of the highest rate that step `step` (from 0) of `steps` uses, 0..1."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    after = steps - settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, after - 1)
    cosine = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return settings.final_share + (1 - settings.final_share) * cosine
