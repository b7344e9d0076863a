"""Discrete actions: what a model writes behind its prompt, token by token, and the chunk it means.

The text is `<action_start><action_7>...<action_end>` and the end of turn. The reference takes the
likeliest token of the whole vocabulary each time; here only those that belong into such a text can
be asked for. On a model that was trained to write it the two agree.
"""

from __future__ import annotations

import numpy as np

from edge.bundle import Bundle
from edge.engines import Decoder
from edge.errors import UndecodableActionsError
from edge.manifest import head_tokens

TOKENS_PER_STEP = 16  # at most so many tokens for each action of a chunk, as in the release
_NO_UTF8 = "\ufffd"  # what a tokenizer reads bytes as that are no text
_FIRST_ROW = np.zeros(1, np.int64)


class ActionSpan:
    """Writes and reads the action tokens of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle with discrete actions."""
        model, self._tokens = bundle.manifest.model, bundle.manifest.tokens
        self._tokenizer = bundle.action_tokenizer
        self._codes = model.action_codes
        self._first_row = model.depth_codes  # of the head
        self._head = head_tokens(model, self._tokens)[self._first_row :]

    def write(self, decoder: Decoder, logits: np.ndarray, horizon: int) -> np.ndarray:
        """Decode greedily until the end of turn; return the tokens, (n,) int64, it included.

        `logits` (head rows,) are those behind what is in the decoder's cache. Raises
        `UndecodableActionsError` after 16 tokens for each of `horizon` actions.
        """
        written, limit = [], TOKENS_PER_STEP * horizon
        while True:
            token = self._head[logits[self._first_row :].argmax()]
            written.append(token)
            if token == self._tokens.eos:
                return np.array(written)
            if len(written) == limit:
                raise UndecodableActionsError(
                    f"{limit} action tokens and no end of turn; the checkpoint was not trained to "
                    "write actions, or the picture is far from what it knows"
                )
            logits = decoder.extend(np.array([token]), _FIRST_ROW)[0]

    def chunk(self, written: np.ndarray, horizon: int, dim: int) -> np.ndarray:
        """Return the chunk that some tokens mean, (horizon, dim) float32 in model units.

        Read are the action tokens between the first <action_start>, or the beginning, and the first
        <action_end> after it, or the end. Raises `UndecodableActionsError` when they mean none.
        """
        starts = np.flatnonzero(written == self._tokens.action_start)
        span = written[starts[0] + 1 :] if len(starts) else written
        ends = np.flatnonzero(span == self._tokens.action_end)
        span = span[: ends[0]] if len(starts) and len(ends) else span
        codes = span - self._tokens.action_first
        codes = codes[(codes >= 0) & (codes < self._codes)].tolist()
        if not codes:
            raise UndecodableActionsError(
                f"the model wrote {len(written)} tokens and no action token among them"
            )
        if _NO_UTF8 in self._tokenizer.tokenizer.decode(codes, skip_special_tokens=False):
            raise UndecodableActionsError(
                f"{len(codes)} action tokens hold bytes that stand for no coefficient"
            )
        return self._tokenizer.decode(codes, horizon, dim)
