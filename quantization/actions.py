"""Which actions a bundle gets: by the flow expert, as tokens, or both; and the tokenizer."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edge import action_tokens
from edge.action_tokens import ActionTokenizer
from edge.errors import ActionTokensError
from edge.manifest import ACTION_TOKENIZER, CONTINUOUS, DISCRETE
from quantization.checkpoint import Checkpoint
from quantization.errors import BuildError

BOTH = "both"
CHOICES = (CONTINUOUS, DISCRETE, BOTH)
_FILES = (
    action_tokens.TOKENIZER,
    action_tokens.TOKENIZER_CONFIG,
    action_tokens.PROCESSOR_CONFIG,
)


@dataclass(frozen=True, slots=True)
class ChosenActions:
    """What a bundle will be able to do."""

    names: tuple[str, ...]  # CONTINUOUS, DISCRETE, or both in this order
    tokenizer: Path | None  # folder of the action tokenizer; None without discrete actions


def choose_actions(
    checkpoint: Checkpoint, wanted: str | None, tokenizer: Path | None
) -> ChosenActions:
    """Return what is `wanted`, one of CHOICES or None for all that checkpoint and tokenizer give.

    `tokenizer` is a folder, None for the one in the checkpoint if it has any. Raises `BuildError`.
    """
    config, path = checkpoint.config, checkpoint.path
    folder = tokenizer
    if folder is None and (path / ACTION_TOKENIZER).is_dir():
        folder = path / ACTION_TOKENIZER
    if wanted not in (*CHOICES, None):
        raise BuildError(f"actions {wanted!r} are unknown; choose one of {', '.join(CHOICES)}")
    if wanted is None:
        names = (CONTINUOUS,) if config.expert else (DISCRETE,)
        if config.expert and config.action_codes and folder:
            names = (CONTINUOUS, DISCRETE)
    else:
        names = (CONTINUOUS, DISCRETE) if wanted == BOTH else (wanted,)
    if CONTINUOUS in names and not config.expert:
        raise BuildError(
            f"{path}: config.json gives it no action expert for inference, so continuous actions "
            "are not possible; use --actions discrete"
        )
    if DISCRETE not in names:
        if tokenizer is not None:
            raise BuildError(
                f"{tokenizer}: not used, because this bundle gets no discrete actions; leave "
                "--action-tokenizer out, or build a checkpoint whose action_mode is 'discrete' or "
                "'both'"
            )
        return ChosenActions(names, None)
    if not config.action_codes:
        raise BuildError(
            f"{path}: config.json gives it no action tokens: num_action_tokens is 0, or "
            "action_mode is 'continuous'; discrete actions are not possible"
        )
    if folder is None:
        raise BuildError(
            f"{path / ACTION_TOKENIZER}: missing; discrete actions need the tokenizer the "
            "checkpoint was trained with: give its folder with --action-tokenizer"
        )
    _check(folder, config.action_codes)
    return ChosenActions(names, folder)


def copy_action_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of an action tokenizer, and nothing else, into a new folder."""
    folder.mkdir()
    for name in _FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def _check(folder: Path, action_codes: int) -> None:
    try:
        size = ActionTokenizer.open(folder).size
    except ActionTokensError as error:
        raise BuildError(str(error)) from None
    if size > action_codes:
        raise BuildError(
            f"{folder}: {size} tokens, the checkpoint has {action_codes} action tokens; give the "
            "tokenizer it was trained with"
        )
