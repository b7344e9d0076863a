"""What the runtime raises: one line with what happened, the value, the limit and what to do."""

from __future__ import annotations


class EdgeError(Exception):
    """Anything that stops the runtime for a reason its user can mend."""


class BundleError(EdgeError):
    """A bundle is missing something, was altered, or is of a kind this runtime does not know."""


class ObservationError(EdgeError):
    """Images, state, task, norm tag or noise do not fit the bundle."""
