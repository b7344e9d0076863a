"""Hold the first actions of a chunk to given ones while the flow is integrated.

The flow leads from noise (t = 0) to actions (t = 1) and was trained on straight lines between them,
x = (1 - t) noise + t actions. A held action stays on the line to the value it was given, and the
model sees it there at every step, so that what it predicts for later goes with it. This is the
inpainting of real-time chunking (Black, Galliker, Levine, "Real-Time Execution of Action Chunking
Flow Policies", 2025) without the gradient of its guidance, which no inference engine offers.

A weight between 0 and 1 mixes the model's velocity with the one that leads to the given value. Both
aim at an end point, so the result is that mixture of the two end points however many steps there
are; mixing the positions instead would pull again at every step.
"""

from __future__ import annotations

import numpy as np

from edge.errors import ObservationError
from edge.normalization import RobotTag

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class HeldActions:
    """The first k actions that a chunk returns: where they are drawn to, and how much."""

    def __init__(
        self, committed: np.ndarray, weights: np.ndarray | None, tag: RobotTag, n_obs_steps: int
    ) -> None:
        """Take (k, action_dim) float64 in robot units, weights (k,) from 0 to 1 (None = 1).

        A value outside what the tag's statistics let the checkpoint say is held to the nearest one
        inside. Raises `ObservationError`.
        """
        _check(committed, weights, tag)
        first = n_obs_steps - 1  # the actions before are of the past and are not returned
        self._rows = slice(first, first + len(committed))
        self._dims = slice(0, tag.action.dim)
        with np.errstate(over="ignore", invalid="ignore"):
            said = tag.action.unnormalize(tag.action.normalize(committed))
            self._target = tag.action.normalize(said)
        _refuse_unless(np.isfinite(self._target), committed)
        given = np.ones(len(committed)) if weights is None else weights
        self._weights = given.astype(np.float32)[:, None]

    def steer(self, velocity: np.ndarray, actions: np.ndarray, time_left: float) -> np.ndarray:
        """Return `velocity` with the held part turned to its target; all (1, horizon, dim).

        `actions` is where the flow is and `time_left` what is left of it, above 0 and up to 1.
        """
        turned = velocity.copy()
        held = turned[0, self._rows, self._dims]
        wanted = (self._target - actions[0, self._rows, self._dims]) / np.float32(time_left)
        held *= 1 - self._weights
        held += self._weights * wanted
        return turned


def _check(committed: np.ndarray, weights: np.ndarray | None, tag: RobotTag) -> None:
    dim, most = tag.action.dim, tag.n_action_steps
    if committed.ndim != 2 or committed.shape[1] != dim or len(committed) > most:
        raise ObservationError(
            f"committed has shape {committed.shape}; norm_tag {tag.name!r} needs (k, {dim}) with "
            f"k up to {most}, the actions of one chunk"
        )
    _refuse_unless(np.abs(committed) <= _FLOAT32_MAX, committed)  # NaN is not
    if weights is None:
        return
    if weights.shape != (len(committed),):
        raise ObservationError(
            f"committed_weights has shape {weights.shape}; ({len(committed)},) is needed, one "
            "weight for each committed action"
        )
    fits = (weights >= 0) & (weights <= 1)
    if not fits.all():
        step = int(np.argmin(fits))
        raise ObservationError(
            f"committed_weights[{step}] is {weights[step]}; each must be from 0 (free) to 1 (held)"
        )


def _refuse_unless(fits: np.ndarray, committed: np.ndarray) -> None:
    if not fits.all():
        step, joint = np.unravel_index(int(np.argmin(fits)), fits.shape)
        raise ObservationError(
            f"committed[{step}, {joint}] is {committed[step, joint]}; every action must be finite "
            "and of a size that a joint can have"
        )
