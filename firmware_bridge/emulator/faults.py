"""What can be wrong with an emulated bus: rules for replies, timed events, odd servos, switches.

The same objects are read from a faults file (`faults_file.py`) and thrown at a running bus with
`EmulatedBus.inject`. Servos are named by the id they had when the bus was built, so that one stays
within reach after its id was changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from firmware_bridge.packets import MAX_SERVO_ID
from firmware_bridge.registers import CONTROL_TABLE

# What befalls a reply; the last one befalls the request, which then is not carried out either.
REPLY_KINDS = ("drop", "late", "corrupt", "truncate", "noise", "deaf")
MAX_DELAY_MS = 10_000.0
REGISTERS = {register.name: register for register in CONTROL_TABLE}

# Behaviour on which reports disagree or that only the arm can settle; the first choice is the
# default. Where the reports are from is in docs/servo_bus.md.
SWITCHES: dict[str, tuple[str, ...]] = {
    "overload_clears_on": ("goal_write", "power_cycle"),
    "overload_measures": ("command", "output", "share_of_limit"),
    "over_temperature": ("cuts", "carries_on"),
    "goal_after_power_up": ("present", "zero"),
    "max_torque_limit_acts": ("at_power_up", "at_once"),
    "locked_eeprom_write": ("acts", "dropped"),
    "settings_answered_as": ("old", "new"),
    "return_delay": ("as_set", "at_least_100_us", "ignored"),
    "slow_baud_rates": ("vendor", "lerobot"),
    "torque_enable_2": ("limp", "damps"),
    "current_sign": ("none", "bit_15"),
    "velocity_mode": ("sticks", "leaves"),
}


class FaultsError(ValueError):
    """Faults that cannot be used; names the file, the key and what is allowed."""


@dataclass(frozen=True, slots=True)
class EventKind:
    """What one kind of event needs: how long it lasts if not said, and the value it takes."""

    duration_s: float | None = None
    value_range: tuple[float, float] | None = None
    default_value: float | None = None


EVENT_KINDS: dict[str, EventKind] = {
    # Power of the servos is gone; afterwards they have forgotten their RAM.
    "brown_out": EventKind(duration_s=0.8),
    # The port is gone and comes back; the servos keep their power.
    "unplug": EventKind(duration_s=1.0),
    # Nothing is heard of the servos; they go on.
    "silent": EventKind(duration_s=math.inf),
    # The adapter returns every byte sent.
    "echo": EventKind(duration_s=math.inf),
    # The supply has this voltage.
    "sag": EventKind(duration_s=math.inf, value_range=(0.0, 30.0)),
    # The shaft does not turn.
    "block": EventKind(duration_s=math.inf),
    # A torque from outside on the shaft, N m.
    "push": EventKind(duration_s=math.inf, value_range=(-10.0, 10.0)),
    # The motor is this hot, degrees Celsius, and cools on its own.
    "hot": EventKind(value_range=(0.0, 200.0), default_value=75.0),
    # The overload protection latches.
    "overload": EventKind(),
    # These fault bits are set in every status byte.
    "status": EventKind(duration_s=math.inf, value_range=(0, 0x7F)),
    # A register, EEPROM or RAM, has this value from now on.
    "register": EventKind(value_range=(-0x7FFF, 0xFFFF)),
}


@dataclass(frozen=True, slots=True)
class ReplyFault:
    """Something that happens to replies: `after` matching ones pass first, then at most `count`.

    `late` holds a reply back by `delay_ms`, `truncate` cuts its end off, `corrupt` flips one bit,
    `noise` puts a few random bytes before it; with `deaf` the servo never got the request.
    """

    kind: str
    ids: frozenset[int] | None = None
    probability: float = 1.0
    delay_ms: float = 0.0
    after: int = 0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in REPLY_KINDS:
            raise FaultsError(f"kind is {self.kind!r}, allowed is {' or '.join(REPLY_KINDS)}")
        if self.kind == "late" and not 0.0 < self.delay_ms <= MAX_DELAY_MS:
            raise FaultsError(f"a late reply needs delay_ms above 0, up to {MAX_DELAY_MS:g}")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to the servos, their supply or the port at a time.

    It comes `at_s` after it was thrown; with `every_s` again and again, at random intervals of that
    mean. It lasts `duration_s` (None: as long as its kind does) and concerns `ids` (None: all).
    """

    kind: str
    at_s: float = 0.0
    every_s: float | None = None
    duration_s: float | None = None
    ids: frozenset[int] | None = None
    value: float | None = None
    register: str | None = None

    def __post_init__(self) -> None:
        kind = EVENT_KINDS.get(self.kind)
        if kind is None:
            raise FaultsError(f"kind is {self.kind!r}, allowed is {' or '.join(EVENT_KINDS)}")
        if self.duration_s is not None and kind.duration_s is None:
            raise FaultsError(f"{self.kind} takes no duration_s: it happens once")
        if (self.register is not None) != (self.kind == "register"):
            raise FaultsError(
                f"{self.kind} with register {self.register!r}; only 'register' has one"
            )
        if self.register is not None and self.register not in REGISTERS:
            raise FaultsError(f"register is {self.register!r}, which the servo does not have")
        self._check_value(kind)

    @property
    def lasts_s(self) -> float:
        """How long it lasts in seconds, maybe without end; 0 for what happens once."""
        return (
            (EVENT_KINDS[self.kind].duration_s or 0.0)
            if self.duration_s is None
            else self.duration_s
        )

    @property
    def amount(self) -> float:
        """The value, or the kind's own where none was given."""
        return (EVENT_KINDS[self.kind].default_value or 0.0) if self.value is None else self.value

    def _check_value(self, kind: EventKind) -> None:
        if kind.value_range is None:
            if self.value is not None:
                raise FaultsError(f"{self.kind} takes no value")
            return
        low, high = kind.value_range
        value = kind.default_value if self.value is None else self.value
        if value is None or not low <= value <= high:
            raise FaultsError(f"{self.kind} has value {value}, allowed is {low:g}..{high:g}")
        if self.register is not None:
            try:
                REGISTERS[self.register].encode(int(value))
            except ValueError as error:
                raise FaultsError(str(error)) from error


@dataclass(frozen=True, slots=True)
class ServoFaults:
    """How one servo differs from a healthy one; `registers` are set whatever the lock says."""

    status_bits: int = 0
    response_status_level: int = 1
    torque_on_runs_to_stale_goal: bool = False
    registers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything that is wrong with an emulated bus, and which way its open questions go.

    `supply_v` None is what the `build` is run on (12 V; the 7.4 V build 5 V). Below
    `brown_out_below_v` at the servos, all of them reboot. `adapter_ms` above 0 is an adapter that
    hands bytes over only that often: 1 on USB, 16 with an FTDI chip's factory setting.
    """

    seed: int = 0
    echo: bool = False
    missing: frozenset[int] = frozenset()
    silent_after_missing: bool = False
    adapter_ms: float = 0.0
    build: str = "12v"
    supply_v: float | None = None
    supply_ohm: float = 0.1
    brown_out_below_v: float = 3.5
    overload_clears_on: str = "goal_write"
    overload_measures: str = "command"
    over_temperature: str = "cuts"
    goal_after_power_up: str = "present"
    max_torque_limit_acts: str = "at_power_up"
    locked_eeprom_write: str = "acts"
    settings_answered_as: str = "old"
    return_delay: str = "as_set"
    slow_baud_rates: str = "vendor"
    torque_enable_2: str = "limp"
    current_sign: str = "none"
    velocity_mode: str = "sticks"
    replies: tuple[ReplyFault, ...] = ()
    events: tuple[Event, ...] = ()
    servos: Mapping[int, ServoFaults] = field(default_factory=dict)


def check_servo_id(value: object, name: str) -> int:
    """Return a servo id. Raises FaultsError for anything else."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SERVO_ID:
        raise FaultsError(f"{name}: {value!r} is not a servo id, 0..{MAX_SERVO_ID}")
    return value
