"""Fit an OpenFAST tokenizer: the range of the coefficients, then byte-pair encoding over them.

Two passes over the chunks, none of which is kept: the first finds the smallest and the largest
coefficient, the second trains the merges (arXiv 2605.02881; the same sums, in the same precision,
as `fit` of LeRobot's `UniversalActionProcessor`, which holds all chunks in memory).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.fft import dct
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from edge.action_tokens import PROCESSOR_CONFIG, ActionTokenizer
from training.openfast.errors import OpenFastError
from training.openfast.runners import Runner
from training.whole_folder import whole_folder

_MIN_FREQUENCY = 2  # of a pair that becomes a token
_MAX_TOKEN_LENGTH = 10_000
MAX_VOCAB = 1_000_000


class ChunkJob(Protocol):
    """Some chunks that one process reads and encodes; pickled on its way there."""

    def read(self) -> np.ndarray:
        """Return (chunks, horizon, dim) float32 in [-1, 1], the same at each call."""
        ...


@dataclass(frozen=True, slots=True)
class CoefficientRange:
    """The smallest and the largest coefficient, in steps of 1 / scale."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class FittedTokenizer:
    """A tokenizer and what turns its characters into coefficients."""

    tokenizer: Tokenizer
    scale: float
    vocab_size: int
    range: CoefficientRange
    horizon: int | None  # of all chunks; None when they differ
    dim: int | None

    def opened(self) -> ActionTokenizer:
        """Give it as the robot uses it."""
        return ActionTokenizer(
            self.tokenizer, self.scale, self.range.low, self.vocab_size, self.horizon, self.dim
        )

    def save(self, out: Path) -> None:
        """Write the released layout: tokenizer.json, tokenizer_config.json, processor_config.json.

        All of it or nothing; raises OutputExistsError when `out` exists.
        """
        from transformers import PreTrainedTokenizerFast

        settings = {
            "scale": self.scale,
            "vocab_size": self.vocab_size,
            "min_token": self.range.low,
            "time_horizon": self.horizon,
            "action_dim": self.dim,
        }
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer, clean_up_tokenization_spaces=False
        )
        with whole_folder(out) as folder:
            wrapped.save_pretrained(folder)
            text = json.dumps(settings, indent=2) + "\n"
            (folder / PROCESSOR_CONFIG).write_text(text, encoding="utf-8")


def fit(jobs: Sequence[ChunkJob], runner: Runner, scale: float, vocab_size: int) -> FittedTokenizer:
    """Fit a tokenizer on the chunks of all jobs; each job is read twice.

    Raises OpenFastError when the vocabulary cannot hold one token for each coefficient.
    """
    found = [each for each in runner.map(partial(_survey, scale=scale), jobs) if each is not None]
    if not found:
        raise OpenFastError("no chunk to fit on; give a dataset that has episodes")
    shapes = [shape for _, shape in found]
    bounds = CoefficientRange(min(r.low for r, _ in found), max(r.high for r, _ in found))
    _check_range(bounds, vocab_size, scale)
    encode = partial(_texts, scale=scale, low=bounds.low)
    tokenizer = _train(chain.from_iterable(runner.map(encode, jobs)), bounds, vocab_size)
    horizons, dims = {horizon for horizon, _ in shapes}, {dim for _, dim in shapes}
    return FittedTokenizer(tokenizer, scale, vocab_size, bounds, _only(horizons), _only(dims))


def coefficients(chunks: np.ndarray, scale: float) -> np.ndarray:
    """Return the rounded coefficients of (n, horizon, dim) chunks, in steps, in their precision."""
    return np.around(dct(chunks, axis=1, norm="ortho") * scale)


def _survey(job: ChunkJob, scale: float) -> tuple[CoefficientRange, tuple[int, int]] | None:
    chunks = job.read()
    if not len(chunks):
        return None
    steps = coefficients(chunks, scale)
    return CoefficientRange(int(steps.min()), int(steps.max())), chunks.shape[1:]


def _texts(job: ChunkJob, scale: float, low: int) -> list[str]:
    chunks = job.read()
    codes = (coefficients(chunks, scale) - low).astype(np.int64).reshape(len(chunks), -1)
    return ["".join(map(chr, row)) for row in codes]


def _check_range(found: CoefficientRange, vocab_size: int, scale: float) -> None:
    if vocab_size > MAX_VOCAB:
        raise OpenFastError(f"a vocabulary of {vocab_size} tokens; at most {MAX_VOCAB} are fitted")
    if found.low == found.high:
        raise OpenFastError(
            f"every coefficient rounds to {found.low} at scale {scale:g}: nothing moves; raise the "
            "scale, or look at the actions"
        )
    needed = found.high - found.low + 1
    if needed > vocab_size:
        raise OpenFastError(
            f"coefficients run from {found.low} to {found.high} at scale {scale:g}, which takes "
            f"{needed} tokens before any merge; the vocabulary has {vocab_size}: raise it or lower "
            "the scale"
        )


def _train(texts: Iterable[str], found: CoefficientRange, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_FREQUENCY,
        show_progress=sys.stderr.isatty(),
        special_tokens=[],
        initial_alphabet=[chr(code) for code in range(found.high - found.low + 1)],
        max_token_length=_MAX_TOKEN_LENGTH,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    if tokenizer.get_vocab_size() > vocab_size:
        raise OpenFastError(
            f"coefficients and their bytes take {tokenizer.get_vocab_size()} tokens before any "
            f"merge; the vocabulary has {vocab_size}: raise it or lower the scale"
        )
    return tokenizer


def _only(values: set[int]) -> int | None:
    return values.pop() if len(values) == 1 else None
