"""Types of command-line options, with the range in the message."""

from __future__ import annotations

import argparse
import math


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return value


def whole(text: str) -> int:
    """Read a whole number from 1."""
    return _whole_from(text, 1)


def whole_or_zero(text: str) -> int:
    """Read a whole number from 0."""
    return _whole_from(text, 0)


def _whole_from(text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"must be a whole number from {low}, got {text}")
    return int(text)
