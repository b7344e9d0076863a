"""What is random about training an example on the model's side, drawn by its number alone.

So a resumed run, two processes and smaller passes see the same noise, whatever else is in a batch.
"""

from __future__ import annotations

import numpy as np

from training.model.settings import FlowSettings

# The data draw from (seed, number); the last word keeps these streams apart from theirs.
_FLOW, _CODES = 1, 2


def flow_draw(
    seed: int, number: int, flow: FlowSettings, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an example's noises (samples, *shape) and times (samples,), float32."""
    rng = np.random.default_rng((seed, number, _FLOW))
    times = flow.offset + flow.scale * rng.beta(*flow.beta, flow.samples)
    noise = rng.standard_normal((flow.samples, *shape), dtype=np.float32)
    return noise, times.astype(np.float32)


def code_draw(
    seed: int, number: int, share: float, length: int, codes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw which of `length` tokens would be swapped (bool) and for which code (int64, < codes).

    Token by token, so that padding to another length changes nothing of those before it.
    """
    draws = np.random.default_rng((seed, number, _CODES)).random((length, 2))
    return draws[:, 0] < share, (draws[:, 1] * codes).astype(np.int64)
