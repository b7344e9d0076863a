"""A recipe's file as a mapping, with what the command line overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from edge.config_section import ProfileError, section_from_yaml
from training.errors import TrainingError

# YAML 1.1 reads 1e-4 as a text because it has no dot.
DOTLESS_NUMBER = re.compile(r"[-+]?\d+[eE][-+]?\d+")


class RecipeError(TrainingError):
    """A recipe that is absent, malformed or out of range; the text is one line for a user."""


def read_mapping(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Parse a recipe's file and apply `key=value` overrides. Raises RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: no such recipe; the shipped ones are in training/recipes"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    try:
        section_from_yaml(text, str(path))
    except ProfileError as error:
        raise RecipeError(str(error)) from error
    values = _with_numbers(yaml.safe_load(text))
    for override in overrides:
        _override(values, override, str(path))
    return values


def _override(values: dict[str, Any], override: str, file: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: not of the form key=value, e.g. --set steps=20")
    *parents, last = key.split(".")
    at: Any = values
    for parent in parents:
        at = at.get(parent) if isinstance(at, dict) else None
    if not isinstance(at, dict) or last not in at:
        raise RecipeError(f"--set {override}: {file} has no key {key}")
    try:
        at[last] = _with_numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise RecipeError(f"--set {override}: the value is not valid YAML: {problem}") from None


def _with_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_numbers(entry) for entry in value]
    if isinstance(value, str) and DOTLESS_NUMBER.fullmatch(value):
        return float(value)
    return value
