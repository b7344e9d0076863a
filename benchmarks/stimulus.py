"""What benchmarks show a policy: pictures of which a known share of the depth cells changes.

Pictures are drawn on the grid of the depth cells; states and tasks stay the same, so that the
prompt does. What a policy writes about such pictures means nothing and may never end; where actions
are tokens it writes as many as there are actions, more or less what a chunk takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edge.bundle import Bundle
from edge.engines import Decoder
from edge.errors import ObservationError
from edge.images import CHANGE_CELL_PX
from edge.manifest import Manifest
from edge.normalization import RobotTag
from edge.policy import Policy

TASK = "put the red cube in the bin"
_PLAIN_SIDE_PX = 320  # of a picture when the checkpoint has no depth cells


def moving_pictures(
    manifest: Manifest, cameras: int, changed_percent: int, calls: int
) -> Iterator[list[np.ndarray]]:
    """Give pictures for each call; `changed_percent` of the first one's depth cells change."""
    random = np.random.default_rng(0)
    cells = manifest.model.depth_cells
    side = round(cells**0.5)
    side_px = side * CHANGE_CELL_PX or _PLAIN_SIDE_PX
    images = [random.integers(0, 256, (side_px, side_px, 3), np.uint8) for _ in range(cameras)]
    for _ in range(calls):
        for cell in random.permutation(cells)[: round(cells * changed_percent / 100)]:
            row, column = divmod(int(cell), side)
            patch = images[0][
                row * CHANGE_CELL_PX : (row + 1) * CHANGE_CELL_PX,
                column * CHANGE_CELL_PX : (column + 1) * CHANGE_CELL_PX,
            ]
            patch[:] = random.integers(0, 256, patch.shape, np.uint8)
        yield [image.copy() for image in images]


class CountedTokens:
    """Stands in for `edge.action_span.ActionSpan`: a token an action, whatever it means."""

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle with discrete actions."""
        self._token = np.array([bundle.manifest.tokens.action_first])

    def write(self, decoder: Decoder, logits: np.ndarray, horizon: int) -> np.ndarray:
        """Decode `horizon` tokens; (horizon,) int64."""
        del logits
        for _ in range(horizon):
            decoder.extend(self._token, np.zeros(1, np.int64))
        return np.repeat(self._token, horizon)

    def chunk(self, written: np.ndarray, horizon: int, dim: int) -> np.ndarray:
        """Return zeros, (horizon, dim) float32."""
        del written
        return np.zeros((horizon, dim), np.float32)


def count_tokens(policy: Policy) -> None:
    """Make a policy write a token an action where its actions are tokens."""
    if policy.bundle.action_tokenizer is not None:
        policy._action_span = CountedTokens(policy.bundle)


def check_horizon(horizon: int, manifest: Manifest) -> None:
    """Raise `ObservationError` for a horizon the model does not have."""
    model = manifest.model
    if not model.n_obs_steps <= horizon <= model.max_action_horizon:
        raise ObservationError(
            f"horizon {horizon} is not possible; this bundle predicts {model.n_obs_steps} to "
            f"{model.max_action_horizon} actions a call"
        )


def varied_tag(tag: RobotTag, manifest: Manifest, horizon: int) -> RobotTag:
    """Return the tag with another number of predicted actions, for any number of cameras.

    Good for timing only: the checkpoint was trained for what its own tag says. Raises
    `ObservationError`.
    """
    check_horizon(horizon, manifest)
    return replace(
        tag,
        name=f"{tag.name}, {horizon} actions",
        action_horizon=horizon,
        n_action_steps=min(tag.n_action_steps, horizon - manifest.model.n_obs_steps + 1),
        cameras=(),
    )
