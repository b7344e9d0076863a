"""Action chunks as tokens and back: the OpenFAST tokenizer.

A chunk in [-1, 1] becomes its orthonormal DCT-II over time; the coefficients times `scale`,
rounded, are written one frequency after another as characters from `min_token` up, and byte-pair
encoding shortens the text (arXiv 2605.02881; LeRobot's `UniversalActionProcessor`). Token i is
`<action_i>` of the language model.

The sums here are in float64. The release transforms in float32, so a coefficient that lies within
1e-5 of the middle between two steps can round the other way: one chunk in 10,000 or fewer.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edge.errors import ActionTokensError, UndecodableActionsError, one_line, shown

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_CONFIG = "processor_config.json"
_FIRST_SURROGATE, _LAST_SURROGATE, _LAST_CHARACTER = 0xD800, 0xDFFF, 0x10FFFF


@dataclass(frozen=True, slots=True)
class ActionTokenizer:
    """A fitted action tokenizer."""

    tokenizer: Tokenizer = field(repr=False)
    scale: float  # steps of a coefficient per unit
    min_token: int  # the coefficient, in steps, that character 0 stands for
    vocab_size: int  # that was asked for when it was fitted; token ids are below `size`
    horizon: int | None  # it was fitted for; None when for several
    dim: int | None

    @classmethod
    def open(cls, folder: str | Path) -> ActionTokenizer:
        """Open a folder in the released layout; raise `ActionTokensError` that names the file."""
        folder = Path(folder)
        config = _read_object(folder / PROCESSOR_CONFIG)
        where = folder / PROCESSOR_CONFIG
        extra = folder / TOKENIZER_CONFIG
        if extra.exists() and _read_object(extra).get("clean_up_tokenization_spaces"):
            raise ActionTokensError(
                f"{extra}: clean_up_tokenization_spaces is true; it would drop coefficients, set "
                "it to false"
            )
        return cls(
            tokenizer=_open_tokenizer(folder / TOKENIZER),
            scale=_scale(config, where),
            min_token=_whole(config, "min_token", where),
            vocab_size=_whole(config, "vocab_size", where, least=1),
            horizon=_whole_or_none(config, "time_horizon", where),
            dim=_whole_or_none(config, "action_dim", where),
        )

    @property
    def size(self) -> int:
        """The number of tokens: ids run from 0 to one less."""
        return self.tokenizer.get_vocab_size()

    def encode(self, chunk: np.ndarray) -> list[int]:
        """Return the tokens of a chunk, (horizon, dim) in model units.

        A coefficient below `min_token` is clipped to it. Characters that never occurred in fitting
        have no token and are left out, as the release does; `decodable` tells. Raises
        `ActionTokensError` for another shape or a value that is not finite.
        """
        chunk = np.asarray(chunk, np.float64)
        if chunk.ndim != 2 or 0 in chunk.shape:
            raise ActionTokensError(
                f"an action chunk has shape {chunk.shape}; (horizon, dim) is needed"
            )
        if not np.isfinite(chunk).all():
            step, joint = np.argwhere(~np.isfinite(chunk))[0]
            raise ActionTokensError(
                f"an action chunk holds {chunk[step, joint]} at step {step}, dim {joint}; finite "
                "numbers are needed"
            )
        steps = np.around(dct_matrix(len(chunk)) @ chunk * self.scale)
        return self.tokenizer.encode(self._text(steps)).ids

    def decode(self, ids: Iterable[int], horizon: int, dim: int) -> np.ndarray:
        """Return the chunk of some tokens, (horizon, dim) float32 in model units.

        Ids that the tokenizer has not are skipped, and bytes that are no UTF-8 read as character
        65533, as in the release: such values lie far outside [-1, 1]. Raises
        `UndecodableActionsError` where the release returns a chunk of zeros: the tokens do not
        stand for horizon x dim coefficients, or one is negative.
        """
        steps = self._steps(ids, horizon * dim).reshape(horizon, dim)
        return (dct_matrix(horizon).T @ (steps / self.scale)).astype(np.float32)

    def decodable(self, ids: Iterable[int], horizon: int, dim: int) -> bool:
        """Tell whether some tokens stand for a chunk of that shape."""
        try:
            self._steps(ids, horizon * dim)
        except UndecodableActionsError:
            return False
        return True

    def _text(self, steps: np.ndarray) -> str:
        codes = np.maximum(steps.reshape(-1) - self.min_token, 0)
        if codes.max() > _LAST_CHARACTER or _is_surrogate(codes).any():
            raise ActionTokensError(
                f"an action chunk needs coefficient {codes.max() + self.min_token:.0f}, more than "
                "characters can stand for; normalise the actions to [-1, 1]"
            )
        return "".join(map(chr, codes.astype(np.int64)))

    def _steps(self, ids: Iterable[int], count: int) -> np.ndarray:
        ids = [operator.index(token) for token in ids]
        if any(not 0 <= token < 2**32 for token in ids):
            wrong = next(token for token in ids if not 0 <= token < 2**32)
            raise UndecodableActionsError(
                f"action token {wrong} is no token id; ids are 0 to {self.size - 1}"
            )
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        if len(text) != count:
            raise UndecodableActionsError(
                f"{len(ids)} action tokens stand for {len(text)} coefficients; {count} are needed"
            )
        return np.fromiter(map(ord, text), np.float64, count) + self.min_token


@lru_cache(maxsize=16)
def dct_matrix(horizon: int) -> np.ndarray:
    """Return the orthonormal DCT-II over `horizon` steps, (horizon, horizon) float64, read-only.

    Its transpose is its inverse.
    """
    frequency, step = np.ogrid[:horizon, :horizon]
    matrix = np.cos(math.pi * (2 * step + 1) * frequency / (2 * horizon)) * math.sqrt(2 / horizon)
    matrix[0] /= math.sqrt(2)
    matrix.flags.writeable = False
    return matrix


def language_ids(text_tokenizer: Tokenizer, tokens: ActionTokenizer) -> np.ndarray:
    """Return the id that each action token has in the language model, (tokens.size,) int64.

    Raises `ActionTokensError` when the language model has fewer `<action_i>` than that.
    """
    ids = [text_tokenizer.token_to_id(f"<action_{index}>") for index in range(tokens.size)]
    if None in ids:
        raise ActionTokensError(
            f"the action tokenizer has {tokens.size} tokens, the checkpoint's tokenizer has no "
            f"<action_{ids.index(None)}>; fit one of at most {ids.index(None)} tokens"
        )
    return np.array(ids, np.int64)


def _is_surrogate(codes: np.ndarray) -> np.ndarray:
    return (codes >= _FIRST_SURROGATE) & (codes <= _LAST_SURROGATE)


def _open_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (tokenizers raises plain Exception)
        raise ActionTokensError(
            f"{path}: not a tokenizer ({one_line(error)}); fit or copy the action tokenizer again"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ActionTokensError(
            f"{path}: missing; fit or copy the action tokenizer again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ActionTokensError(
            f"{path}: unreadable ({one_line(error)}); fit or copy the action tokenizer again"
        ) from None
    if not isinstance(value, dict):
        raise ActionTokensError(f"{path}: holds {shown(value)}; an object is needed")
    return value


def _scale(config: dict[str, Any], where: Path) -> float:
    value = config.get("scale")
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ActionTokensError(f"{where}: scale is {shown(value)}; a number above 0 is needed")
    return float(value)


def _whole(config: dict[str, Any], key: str, where: Path, least: int | None = None) -> int:
    value = config.get(key)
    if type(value) is not int or (least is not None and value < least):
        least_text = "" if least is None else f" of {least} or more"
        raise ActionTokensError(
            f"{where}: {key} is {shown(value)}; a whole number{least_text} is needed"
        )
    return value


def _whole_or_none(config: dict[str, Any], key: str, where: Path) -> int | None:
    return None if config.get(key) is None else _whole(config, key, where, least=1)
