"""What can go wrong while an action tokenizer is fitted or measured."""

from __future__ import annotations

from training.errors import TrainingError


class OpenFastError(TrainingError):
    """A dataset, a tokenizer or a cluster does not fit what was asked for."""
