"""What building a bundle raises."""

from __future__ import annotations


class BuildError(Exception):
    """A checkpoint, recipe or output cannot be used; the message says what to do."""
