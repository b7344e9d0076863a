"""Faults an emulated bus is asked to show, read from a YAML or JSON file.

```yaml
seed: 7                    # same seed, same faults
echo: false                # an adapter that returns every byte sent
missing: [3]               # ids that never answer
silent_after_missing: false  # sync read: ids listed after a missing one stay silent too
overload_clears_on: goal_write   # or power_cycle
replies:                   # rules, the first that fires decides about a reply
  - {kind: late, ids: [2], probability: 0.01, delay_ms: 40}
  - {kind: drop, after: 100, count: 1}
  - {kind: corrupt, probability: 0.001}
servos:
  4: {status_bits: 32, response_status_level: 0, torque_on_runs_to_stale_goal: true}
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from firmware_bridge.packets import MAX_SERVO_ID

KINDS = ("drop", "late", "corrupt")
MAX_DELAY_MS = 10_000.0


class FaultsError(ValueError):
    """A faults file that cannot be used; names the file, the key and what is allowed."""


@dataclass(frozen=True, slots=True)
class ReplyFault:
    """Something that happens to replies: `after` matching ones pass first, then at most `count`."""

    kind: str
    ids: frozenset[int] | None = None
    probability: float = 1.0
    delay_ms: float = 0.0
    after: int = 0
    count: int | None = None


@dataclass(frozen=True, slots=True)
class ServoFaults:
    """How one servo differs from a healthy one."""

    status_bits: int = 0
    response_status_level: int = 1
    torque_on_runs_to_stale_goal: bool = False


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything that is wrong with an emulated bus."""

    seed: int = 0
    echo: bool = False
    missing: frozenset[int] = frozenset()
    silent_after_missing: bool = False
    overload_clears_on: str = "goal_write"
    replies: tuple[ReplyFault, ...] = ()
    servos: Mapping[int, ServoFaults] = field(default_factory=dict)


def load_faults(path: Path) -> Faults:
    """Read a faults file. Raises FaultsError with one line that names the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FaultsError(f"{path}: cannot be read ({error}); check the path") from error
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise FaultsError(f"{path}: is not valid YAML or JSON ({reason})") from error
    return faults_from_mapping(content if content is not None else {}, str(path))


def faults_from_mapping(content: object, name: str = "faults") -> Faults:
    """Check and convert the parsed content of a faults file. Raises FaultsError."""
    top = _Section(content, name, Faults.__dataclass_fields__)
    return Faults(
        seed=top.integer("seed", 0, 0, 2**63 - 1),
        echo=top.boolean("echo"),
        missing=top.ids("missing") or frozenset(),
        silent_after_missing=top.boolean("silent_after_missing"),
        overload_clears_on=top.choice(
            "overload_clears_on", ("goal_write", "power_cycle"), "goal_write"
        ),
        replies=tuple(
            _reply_fault(rule, f"{name}: replies[{index}]")
            for index, rule in enumerate(top.sequence("replies"))
        ),
        servos=_servos(top, name),
    )


def _reply_fault(content: object, name: str) -> ReplyFault:
    rule = _Section(content, name, ReplyFault.__dataclass_fields__)
    kind = rule.choice("kind", KINDS, None)
    delay_ms = rule.number("delay_ms", 0.0, 0.0, MAX_DELAY_MS)
    if kind == "late" and delay_ms == 0.0:
        raise FaultsError(f"{name}: a late reply needs delay_ms above 0, up to {MAX_DELAY_MS:g}")
    return ReplyFault(
        kind=kind,
        ids=rule.ids("ids"),
        probability=rule.number("probability", 1.0, 0.0, 1.0),
        delay_ms=delay_ms,
        after=rule.integer("after", 0, 0, 10**9),
        count=rule.integer("count", 1, 1, 10**9) if "count" in rule.content else None,
    )


def _servos(top: _Section, name: str) -> dict[int, ServoFaults]:
    servos = {}
    for key, content in top.mapping("servos").items():
        servo_id = _servo_id(key, f"{name}: servos")
        section = _Section(content, f"{name}: servos.{servo_id}", ServoFaults.__dataclass_fields__)
        servos[servo_id] = ServoFaults(
            status_bits=section.integer("status_bits", 0, 0, 0x7F),
            response_status_level=section.integer("response_status_level", 1, 0, 1),
            torque_on_runs_to_stale_goal=section.boolean("torque_on_runs_to_stale_goal"),
        )
    return servos


def _servo_id(value: object, name: str) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SERVO_ID:
        raise FaultsError(f"{name}: {value!r} is not a servo id, 0..{MAX_SERVO_ID}")
    return value


class _Section:
    """One mapping of the file, whose values are taken out with their checks."""

    def __init__(self, content: object, name: str, known: Mapping[str, Any]) -> None:
        if not isinstance(content, Mapping):
            raise FaultsError(f"{name}: {content!r} is not a mapping of {', '.join(known)}")
        for key in content:
            if key not in known:
                raise FaultsError(f"{name}: unknown key {key!r}; known are {', '.join(known)}")
        self.content = content
        self._name = name

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self.content.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is {low}..{high}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self.content.get(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is {low:g}..{high:g}")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.content.get(key, False)
        if not isinstance(value, bool):
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is true or false")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None) -> str:
        value = self.content.get(key, default)
        if value not in allowed:
            raise FaultsError(
                f"{self._name}: {key} is {value!r}, allowed is {' or '.join(allowed)}"
            )
        return value

    def ids(self, key: str) -> frozenset[int] | None:
        if key not in self.content:
            return None
        return frozenset(_servo_id(item, f"{self._name}: {key}") for item in self.sequence(key))

    def sequence(self, key: str) -> list[object]:
        value = self.content.get(key, [])
        if not isinstance(value, list):
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is a list")
        return value

    def mapping(self, key: str) -> Mapping[object, object]:
        value = self.content.get(key, {})
        if not isinstance(value, Mapping):
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is a mapping by servo id")
        return value
