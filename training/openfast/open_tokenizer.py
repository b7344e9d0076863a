"""Open an action tokenizer for training."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from edge.action_tokens import TOKENIZER, ActionTokenizer, language_ids
from edge.errors import ActionTokensError, one_line
from training.openfast.errors import OpenFastError


def open_tokenizer(folder: Path, checkpoint: Path | None = None) -> ActionTokenizer:
    """Open the tokenizer in `folder`; with a checkpoint, check that it has each `<action_i>`.

    Raises OpenFastError.
    """
    try:
        tokens = ActionTokenizer.open(folder)
        if checkpoint is not None:
            language_ids(_text_tokenizer(checkpoint / TOKENIZER), tokens)
    except ActionTokensError as error:
        raise OpenFastError(str(error)) from None
    return tokens


def _text_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (tokenizers raises plain Exception)
        raise OpenFastError(f"{path}: not a tokenizer ({one_line(error)})") from None
