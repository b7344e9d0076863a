"""How well action tokens stand for chunks: how many they are, what they lose, when they fail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.action_tokens import ActionTokenizer
from edge.errors import UndecodableActionsError
from edge.normalization import Normalizer


class Codec(Protocol):
    """Turns chunks into tokens and back."""

    size: int  # token ids are below it

    def encode(self, chunk: np.ndarray) -> list[int]: ...

    def decode(self, ids: Iterable[int], horizon: int, dim: int) -> np.ndarray:
        """Raise UndecodableActionsError when the tokens stand for no such chunk."""
        ...


@dataclass(frozen=True, slots=True)
class PlainBins:
    """One token a number: 256 equal bins over [-1, 1] (RT-2, OpenVLA, MolmoAct)."""

    size: int = 256

    def encode(self, chunk: np.ndarray) -> list[int]:
        bins = np.rint((np.clip(chunk, -1, 1) + 1) / 2 * (self.size - 1))
        return bins.astype(int).reshape(-1).tolist()

    def decode(self, ids: Iterable[int], horizon: int, dim: int) -> np.ndarray:
        values = np.array(list(ids), float) / (self.size - 1) * 2 - 1
        return values.reshape(horizon, dim).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Padded:
    """A tokenizer that sees `dims` dims, zeros beyond the robot's own (arXiv 2605.02881)."""

    tokens: ActionTokenizer
    dims: int

    @property
    def size(self) -> int:
        return self.tokens.size

    def encode(self, chunk: np.ndarray) -> list[int]:
        return self.tokens.encode(np.pad(chunk, ((0, 0), (0, self.dims - chunk.shape[1]))))

    def decode(self, ids: Iterable[int], horizon: int, dim: int) -> np.ndarray:
        return self.tokens.decode(ids, horizon, self.dims)[:, :dim]


@dataclass(frozen=True, slots=True)
class Measured:
    """One tokenizer on the chunks of one robot."""

    tokens_mean: float
    tokens_p95: float
    errors: np.ndarray  # (decoded chunks, horizon, dim) float32, absolute, in the robot's units
    undecodable: float  # share of chunks whose own tokens stand for no chunk
    undecodable_replaced: float  # share that fails after one token became another at random


def measure(
    codec: Codec, chunks: np.ndarray, normalizer: Normalizer, rng: np.random.Generator
) -> Measured:
    """Encode and decode (n, horizon, dim) chunks, as they are and with one token replaced.

    Errors are between what a robot would be sent for the decoded and for the normalised chunk.
    """
    counts, errors, failed, failed_replaced = [], [], 0, 0
    for chunk in chunks:
        ids = codec.encode(chunk)
        counts.append(len(ids))
        decoded = _decoded(codec, ids, chunk.shape)
        if decoded is None:
            failed += 1
        else:
            sent, meant = normalizer.unnormalize(decoded), normalizer.unnormalize(chunk)
            errors.append(np.abs(sent - meant))
        failed_replaced += _decoded(codec, _replaced(ids, codec.size, rng), chunk.shape) is None
    return Measured(
        tokens_mean=float(np.mean(counts)),
        tokens_p95=float(np.percentile(counts, 95)),
        errors=np.array(errors, np.float32).reshape(-1, *chunks.shape[1:]),
        undecodable=failed / len(chunks),
        undecodable_replaced=failed_replaced / len(chunks),
    )


def _decoded(codec: Codec, ids: list[int], shape: tuple[int, int]) -> np.ndarray | None:
    try:
        return codec.decode(ids, *shape)
    except UndecodableActionsError:
        return None


def _replaced(ids: list[int], size: int, rng: np.random.Generator) -> list[int]:
    """Return the tokens with one of them, any, replaced by any other."""
    if not ids:
        return ids
    ids = list(ids)
    place = int(rng.integers(len(ids)))
    ids[place] = (ids[place] + int(rng.integers(1, size))) % size
    return ids
