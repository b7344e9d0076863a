"""Read one mapping of a YAML file strictly: every key known, present, typed and in range.

Each error is one line: file, key, value found, what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

from edge.errors import EdgeError, one_line, shown


class ProfileError(EdgeError):
    """A profile that is absent, malformed, or out of range; the text is one line for a user."""


class Section:
    """Take keys out of a mapping one by one, then `finish` refuses what was not taken."""

    def __init__(self, value: Any, file: str, key: str = "") -> None:
        self.file = file
        self.key = key
        if not isinstance(value, Mapping):
            raise ProfileError(f"{self._at()}: {shown(value)} is not a mapping of keys to values")
        self._values = dict(value)

    def child(self, key: str) -> Section:
        """Take a nested mapping."""
        return Section(self._take(key), self.file, self._path(key))

    def optional_child(self, key: str) -> Section | None:
        """Take a nested mapping or null; the key itself must be there."""
        if key in self._values and self._values[key] is None:
            del self._values[key]
            return None
        return self.child(key)

    def children(self, key: str) -> list[Section]:
        """Take a list of mappings, at least one."""
        values = self._take(key)
        if not isinstance(values, list) or not values:
            raise ProfileError(f"{self._at(key)}: {shown(values)} is not a list with entries")
        return [
            Section(value, self.file, f"{self._path(key)}[{index}]")
            for index, value in enumerate(values)
        ]

    def base(self) -> str | None:
        """Take `based_on`, the one key that may be left out: the file that has the other keys."""
        return self.text("based_on") if "based_on" in self._values else None

    def fill_from(self, base: Section) -> None:
        """Take over what `base` states and this does not, key by key down to single values.

        A mapping with a `kind` is one value: a number must not inherit another one's source.
        """
        self._values = _filled(self._values, base._values)

    def names(self) -> list[str]:
        """Return the keys not taken yet, in file order."""
        return [str(key) for key in self._values]

    def holds_text(self, key: str) -> bool:
        """Tell whether `key` is there and a text; it is not taken."""
        return isinstance(self._values.get(key), str)

    def text(self, key: str, allowed: tuple[str, ...] | None = None) -> str:
        """Take a string, one of `allowed` when given."""
        value = self._take(key)
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise ProfileError(f"{self._at(key)}: {shown(value)} is not a text")
        if allowed is not None and value not in allowed:
            raise ProfileError(f"{self._at(key)}: '{value}'; allowed: {', '.join(allowed)}")
        return value

    def optional_text(self, key: str) -> str | None:
        """Take a string or null; the key itself must be there."""
        if key in self._values and self._values[key] is None:
            del self._values[key]
            return None
        return self.text(key)

    def boolean(self, key: str) -> bool:
        """Take true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise ProfileError(f"{self._at(key)}: {shown(value)}; allowed: true, false")
        return value

    def optional_boolean(self, key: str) -> bool | None:
        """Take true, false or null; the key itself must be there."""
        if key in self._values and self._values[key] is None:
            del self._values[key]
            return None
        return self.boolean(key)

    def number(self, key: str, low: float, high: float) -> float:
        """Take a finite number within low..high, both ends allowed."""
        return _number(self._take(key), low, high, self._at(key))

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        """Take a finite number within low..high, or null; the key itself must be there."""
        if key in self._values and self._values[key] is None:
            del self._values[key]
            return None
        return self.number(key, low, high)

    def integer(self, key: str, low: int, high: int) -> int:
        """Take a whole number within low..high, both ends allowed."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ProfileError(
                f"{self._at(key)}: {shown(value)}; allowed: a whole number {low}..{high}"
            )
        return value

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """Take a whole number within low..high, or null; the key itself must be there."""
        if key in self._values and self._values[key] is None:
            del self._values[key]
            return None
        return self.integer(key, low, high)

    def optional_integers(self, key: str, low: int, high: int) -> tuple[int, ...] | None:
        """Take a list of whole numbers within low..high, or null; the key itself must be there."""
        value = self._take(key)
        if value is None:
            return None
        whole = isinstance(value, list) and all(type(v) is int and low <= v <= high for v in value)
        if not whole or not value:
            allowed = f"a list of whole numbers {low}..{high}, or null"
            raise ProfileError(f"{self._at(key)}: {shown(value)}; allowed: {allowed}")
        return tuple(value)

    def integer_or(self, key: str, low: int, high: int, word: str) -> int | str | None:
        """Take a whole number within low..high, `word`, or null; the key itself must be there."""
        value = self._take(key)
        if value is None or value == word or (type(value) is int and low <= value <= high):
            return value
        allowed = f"{low} to {high}, {word}, null"
        raise ProfileError(f"{self._at(key)}: {shown(value)}; allowed: {allowed}")

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """Take a list of `count` numbers, each within low..high."""
        values = self._take(key)
        if not isinstance(values, list) or len(values) != count:
            raise ProfileError(f"{self._at(key)}: {shown(values)}; allowed: a list of {count}")
        return tuple(
            _number(value, low, high, f"{self._at(key)}[{index}]")
            for index, value in enumerate(values)
        )

    def number_list(self, key: str, low: float, high: float) -> tuple[float, ...]:
        """Take a list of numbers, at least one, each within low..high."""
        values = self._take(key)
        if not isinstance(values, list) or not values:
            raise ProfileError(f"{self._at(key)}: {shown(values)} is not a list with numbers")
        return tuple(
            _number(value, low, high, f"{self._at(key)}[{index}]")
            for index, value in enumerate(values)
        )

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of texts, at least one."""
        values = self._take(key)
        if not isinstance(values, list) or not values:
            raise ProfileError(f"{self._at(key)}: {shown(values)} is not a list with texts")
        for index, value in enumerate(values):
            if not isinstance(value, str) or not value.isprintable() or not value:
                raise ProfileError(f"{self._at(key)}[{index}]: {shown(value)} is not a text")
        return tuple(values)

    def optional_texts(self, key: str) -> tuple[str, ...] | None:
        """Take a list of texts, at least one, or null; the key itself must be there."""
        if key in self._values and self._values[key] is None:
            del self._values[key]
            return None
        return self.texts(key)

    def refuse_twins(self, key: str, values: list[str]) -> None:
        """Refuse a value that is listed twice under `key`."""
        for value in values:
            if values.count(value) > 1:
                raise self.fail(key, f"'{value}' is listed twice; each must differ")

    def fail(self, key: str, problem: str) -> ProfileError:
        """Make the error for a value that only the caller can judge."""
        return ProfileError(f"{self._at(key)}: {problem}")

    def finish(self) -> None:
        """Refuse the keys nobody took."""
        if self._values:
            unknown = ", ".join(f"'{key}'" for key in self.names())
            raise ProfileError(f"{self._at()}: unknown key {unknown}; remove it or check its name")

    def _take(self, key: str) -> Any:
        if key not in self._values:
            raise ProfileError(f"{self._at(key)}: this key is missing and has no default")
        return self._values.pop(key)

    def _path(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key

    def _at(self, key: str = "") -> str:
        path = self._path(key) if key else self.key
        return f"{self.file}: {path}" if path else self.file


def section_from_yaml(text: str, file: str) -> Section:
    """Parse YAML text into a Section; `file` is the name that errors show."""
    try:
        return Section(yaml.load(text, _StrictLoader), file)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ProfileError(f"{file}: line {line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: what YAML takes for a date or a number and Python does not.
        raise ProfileError(f"{file}: not valid YAML: {one_line(error)}") from error


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key listed twice; YAML would keep the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key_node, yaml.ScalarNode) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key}' is listed twice", problem_mark=key_node.start_mark
                )
            seen.add(key if isinstance(key_node, yaml.ScalarNode) else id(key_node))
        return super().construct_mapping(node, deep)


def _filled(values: Mapping, base: Mapping) -> dict:
    filled = {**base, **values}
    for key in values.keys() & base.keys():
        mappings = isinstance(values[key], Mapping) and isinstance(base[key], Mapping)
        if mappings and "kind" not in base[key]:
            filled[key] = _filled(values[key], base[key])
    return filled


def _number(value: Any, low: float, high: float, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ProfileError(f"{at}: {shown(value)} is not a number; allowed: {low:g}..{high:g}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ProfileError(f"{at}: {value:g}; allowed: {low:g}..{high:g}")
    return float(value)
