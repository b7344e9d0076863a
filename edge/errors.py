"""What the runtime raises: one line with what happened, the value, the limit and what to do."""

from __future__ import annotations


class EdgeError(Exception):
    """Anything that stops the runtime for a reason its user can mend."""


class BundleError(EdgeError):
    """A bundle is missing something, was altered, or is of a kind this runtime does not know."""


class ObservationError(EdgeError):
    """Images, state, task, norm tag or noise do not fit the bundle."""


class ActionTokensError(EdgeError):
    """An action tokenizer is damaged, or does not fit the chunk or the language model."""


class UndecodableActionsError(ActionTokensError):
    """Action tokens do not stand for a chunk of the wanted shape."""


def one_line(error: Exception, most: int = 300) -> str:
    """Return an error's text on one line, cut to `most` characters; its kind when it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shown(value: object, most: int = 40) -> str:
    """Return a wrong value as a message shows it: its literal, cut to `most` characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
