"""What the policy asks of an engine: three small protocols that any runtime can stand behind.

The stages are vision (pictures to features), decoder (tokens to keys, values and logits) and
expert (keys and values to a direction of motion). Arrays are float32 numpy unless stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

KeysValues = Sequence[tuple[np.ndarray, np.ndarray]]


class Vision(Protocol):
    """The vision tower with its adapter."""

    def encode(self, patches: np.ndarray, pooling: np.ndarray) -> np.ndarray:
        """Turn (crops, patches, pixels) uint8 and (tokens, k) int64 into (tokens, width)."""


class Decoder(Protocol):
    """The language model with its cache of keys and values."""

    length: int  # rows in the cache
    prefill_decides: bool  # logits of a prefill are those `extend` would give for the same rows
    row_pairs: bool  # a row's sums are those of other passes only if `extend` gets even row counts

    def prefill(
        self, embeddings: np.ndarray, image_mask: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Start over with (T, width) embeddings; return logits of some rows.

        They are (len(rows), head rows), a column for each of `edge.manifest.head_tokens`.

        The first rows are the prompt, as many as `image_mask` is long: where that is True they see
        each other both ways, otherwise only back. Rows behind it may be cut off again; their sums
        are those of `extend`.
        """

    def extend(self, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Append (n,) token ids to the cache; return logits of `rows`, counted within the n."""

    def truncate(self, length: int) -> None:
        """Forget every cached row from `length` on."""

    def keys_values(self) -> KeysValues:
        """Return per layer the cached (1, length, kv_width) pair; views until the next call."""


class Expert(Protocol):
    """The flow-matching action expert."""

    def prepare(self, keys_values: KeysValues, visible: np.ndarray, depth: np.ndarray) -> None:
        """Take in the decoder's cache: `visible` (L,) bool may be read, `depth` (L,) are gated."""

    def step(self, actions: np.ndarray, index: int) -> np.ndarray:
        """Return the velocity, (1, H, max_action_dim), at flow step `index` for the actions so far.

        The result is reused by the next call.
        """
