"""Faults from a YAML or JSON file, once or again whenever the file changes.

```yaml
seed: 7                      # same seed, same faults
missing: [3]                 # ids that never answer
overload_clears_on: power_cycle
replies:                     # rules, the first that fires decides about a reply
  - {kind: late, ids: [2], probability: 0.01, delay_ms: 40}
events:
  - {kind: brown_out, at_s: 12}
  - {kind: unplug, every_s: 30, duration_s: 0.5}
servos:
  4: {status_bits: 32, registers: {firmware_minor_version: 9}}
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from firmware_bridge.emulator.faults import (
    EVENT_KINDS,
    MAX_DELAY_MS,
    REGISTERS,
    REPLY_KINDS,
    SWITCHES,
    Event,
    Faults,
    FaultsError,
    ReplyFault,
    ServoFaults,
    check_servo_id,
)

BUILDS = ("12v", "7.4v")
MAX_COUNT = 10**9
MAX_TIME_S = 1e6


def load_faults(path: Path) -> Faults:
    """Read a faults file. Raises FaultsError with one line that names the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FaultsError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise FaultsError(f"{path}: is not text ({error}); give YAML or JSON") from error
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise FaultsError(f"{path}: is not valid YAML or JSON ({reason})") from error
    return faults_from_mapping(content if content is not None else {}, str(path))


def faults_from_mapping(content: object, name: str = "faults") -> Faults:
    """Check and convert the parsed content of a faults file. Raises FaultsError."""
    top = _Section(content, name, Faults.__dataclass_fields__)
    defaults = Faults()
    return Faults(
        seed=top.integer("seed", 0, 2**63 - 1),
        echo=top.boolean("echo"),
        missing=top.ids("missing") or frozenset(),
        silent_after_missing=top.boolean("silent_after_missing"),
        adapter_ms=top.number("adapter_ms", 0.0, 1000.0),
        build=top.choice("build", BUILDS, BUILDS[0]),
        supply_v=top.optional(top.number, "supply_v", 0.0, 30.0),
        supply_ohm=top.number("supply_ohm", 0.0, 100.0, defaults.supply_ohm),
        brown_out_below_v=top.number("brown_out_below_v", 0.0, 30.0, defaults.brown_out_below_v),
        replies=tuple(
            _reply_fault(rule, f"{name}: replies[{index}]")
            for index, rule in enumerate(top.sequence("replies"))
        ),
        events=tuple(
            _event(event, f"{name}: events[{index}]")
            for index, event in enumerate(top.sequence("events"))
        ),
        servos=_servos(top, name),
        **{key: top.choice(key, choices, choices[0]) for key, choices in SWITCHES.items()},
    )


class FaultsWatch:
    """Reads a faults file again whenever it was written and hands over what it holds.

    `use(faults)` is called by `poll`, in the caller's thread; `complain(line)` when the file cannot
    be used, whereupon what was asked for before goes on.
    """

    def __init__(
        self, path: Path, use: Callable[[Faults], None], complain: Callable[[str], None]
    ) -> None:
        self._path = path
        self._use = use
        self._complain = complain
        self._seen = self._stamp()

    def poll(self) -> None:
        """Look at the file; costs a few microseconds when it has not changed."""
        stamp = self._stamp()
        if stamp == self._seen or stamp is None:
            return
        self._seen = stamp
        try:
            self._use(load_faults(self._path))
        except FaultsError as error:
            self._complain(f"{error}; the faults stay as they were")

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            state = os.stat(self._path)
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino


def _reply_fault(content: object, name: str) -> ReplyFault:
    rule = _Section(content, name, ReplyFault.__dataclass_fields__)
    return rule.build(
        ReplyFault,
        kind=rule.choice("kind", REPLY_KINDS),
        ids=rule.ids("ids"),
        probability=rule.number("probability", 0.0, 1.0, 1.0),
        delay_ms=rule.number("delay_ms", 0.0, MAX_DELAY_MS),
        after=rule.integer("after", 0, MAX_COUNT),
        count=rule.optional(rule.integer, "count", 1, MAX_COUNT),
    )


def _event(content: object, name: str) -> Event:
    event = _Section(content, name, Event.__dataclass_fields__)
    return event.build(
        Event,
        kind=event.choice("kind", tuple(EVENT_KINDS)),
        at_s=event.number("at_s", 0.0, MAX_TIME_S),
        every_s=event.optional(event.number, "every_s", 0.01, MAX_TIME_S),
        duration_s=event.optional(event.number, "duration_s", 0.0, MAX_TIME_S),
        ids=event.ids("ids"),
        value=event.optional(event.number, "value", -1e6, 1e6),
        register=event.optional(event.choice, "register", tuple(REGISTERS)),
    )


def _servos(top: _Section, name: str) -> dict[int, ServoFaults]:
    servos = {}
    for key, content in top.mapping("servos").items():
        servo_id = check_servo_id(key, f"{name}: servos")
        section = _Section(content, f"{name}: servos.{servo_id}", ServoFaults.__dataclass_fields__)
        servos[servo_id] = ServoFaults(
            status_bits=section.integer("status_bits", 0, 0x7F),
            response_status_level=section.integer("response_status_level", 0, 1, 1),
            torque_on_runs_to_stale_goal=section.boolean("torque_on_runs_to_stale_goal"),
            registers=_registers(section, f"{name}: servos.{servo_id}: registers"),
        )
    return servos


def _registers(section: _Section, name: str) -> dict[str, int]:
    values = {}
    for register, value in section.mapping("registers").items():
        if register not in REGISTERS:
            raise FaultsError(f"{name}: {register!r} is not a register of the servo")
        if isinstance(value, bool) or not isinstance(value, int):
            raise FaultsError(f"{name}: {register} is {value!r}, allowed is a whole number")
        try:
            REGISTERS[register].encode(value)
        except ValueError as error:
            raise FaultsError(f"{name}: {error}") from error
        values[register] = value
    return values


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

    def build(self, made: type, /, **values: object) -> Any:
        """Make what the section describes; its own complaints are given the section's name."""
        try:
            return made(**values)
        except FaultsError as error:
            raise FaultsError(f"{self._name}: {error}") from error

    def optional(self, read: Callable[..., Any], key: str, *allowed: Any) -> Any | None:
        """Return what `read` takes out, None when the key is not there."""
        return read(key, *allowed) if key in self.content else None

    def integer(self, key: str, low: int, high: int, default: int = 0) -> int:
        value = self.content.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is {low}..{high}")
        return value

    def number(self, key: str, low: float, high: float, default: float = 0.0) -> float:
        if key not in self.content:
            return default
        value = self.content[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is {low:g}..{high:g}")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.content.get(key, False)
        if not isinstance(value, bool):
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is true or false")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.content.get(key, default)
        if value not in allowed:
            raise FaultsError(
                f"{self._name}: {key} is {value!r}, allowed is {' or '.join(allowed)}"
            )
        return value

    def ids(self, key: str) -> frozenset[int] | None:
        if key not in self.content:
            return None
        items = self.sequence(key)
        return frozenset(check_servo_id(item, f"{self._name}: {key}") for item in items)

    def sequence(self, key: str) -> list[object]:
        value = self.content.get(key, [])
        if not isinstance(value, list):
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is a list")
        return value

    def mapping(self, key: str) -> Mapping[object, object]:
        value = self.content.get(key, {})
        if not isinstance(value, Mapping):
            raise FaultsError(f"{self._name}: {key} is {value!r}, allowed is a mapping")
        return value
