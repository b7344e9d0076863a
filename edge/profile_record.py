"""Turn a profile into plain values for JSON, and such values back into the profile they were."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from edge.config_section import ProfileError
from edge.errors import shown
from edge.profile import Profile


def record_from_profile(profile: Profile) -> dict[str, Any]:
    """Return every value of a profile as JSON has it: mappings, lists, texts, numbers."""
    return _plain(profile)


def profile_from_record(record: Any, source: str) -> Profile:
    """Return the profile a record was made of; ProfileError names `source` and what does not fit.

    A record of another version of this program may lack what a profile needs today.
    """
    return _value(record, Profile, f"{source}: profile")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in _fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _value(value: Any, wanted: Any, at: str) -> Any:
    if dataclasses.is_dataclass(wanted):
        return _record(value, wanted, at)
    if typing.get_origin(wanted) is tuple:
        kind = typing.get_args(wanted)[0]
        if not isinstance(value, list):
            raise ProfileError(f"{at}: {shown(value)} is not a list")
        return tuple(_value(item, kind, f"{at}[{index}]") for index, item in enumerate(value))
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):
        return _one_of(value, typing.get_args(wanted), at)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ProfileError(f"{at}: {shown(value)} is not of type {wanted.__name__}")
    return value


def _one_of(value: Any, kinds: tuple[Any, ...], at: str) -> Any:
    for kind in kinds:
        try:
            return _value(value, kind, at)
        except ProfileError:
            continue
    raise ProfileError(f"{at}: {shown(value)} is of no type that is allowed")


def _record(value: Any, kind: type, at: str) -> Any:
    hints = typing.get_type_hints(kind)
    names = {field.name for field in _fields(kind)}
    if not isinstance(value, dict):
        raise ProfileError(f"{at}: {shown(value)} is not a mapping")
    for problem, keys in (("missing", names - value.keys()), ("unknown", value.keys() - names)):
        if keys:
            raise ProfileError(
                f"{at}: {problem} {', '.join(sorted(map(str, keys)))}; it was recorded by another "
                "version of this program, give --profile"
            )
    return kind(**{name: _value(value[name], hints[name], f"{at}.{name}") for name in names})


def _fields(value: Any) -> tuple[dataclasses.Field, ...]:
    return tuple(field for field in dataclasses.fields(value) if field.init)
