"""What can go wrong while a checkpoint is made."""

from __future__ import annotations

from pathlib import Path


class TrainingError(Exception):
    """A failure that the person at the keyboard can act on; the message is one line."""


class OutputExistsError(TrainingError):
    """The output path is taken; nothing is ever overwritten."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} already exists; remove it or choose another output path")


class UnknownSizeError(TrainingError):
    """No model of this size is known."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown size {name!r}; choose one of: {', '.join(known)}")


class CheckpointError(TrainingError):
    """A checkpoint's file is absent, damaged, or asks for what is not supported."""


class TokenizerError(TrainingError):
    """The tokenizer cannot be built with the vocabulary that the size asks for."""
