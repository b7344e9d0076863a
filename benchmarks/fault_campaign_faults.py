"""What the fault campaign lets happen: one way to draw each kind of fault at random.

A fault is something thrown at the emulated bus (`ReplyFault`, `Event`), something that befalls the
program around the loop, or its end. How long each lasts is bounded, so that it can be said whether
the arm recovered.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.emulator.faults import Event, ReplyFault

# Of a restart; the emulator takes the manual's 0.8 s for it.
RESTART_S = 0.8
NO_FAULT, EVERYTHING, GOALS = "none", "everything", "goals"
KILLED, HUNG = "loop_killed", "loop_hung"
LATE_TICK, POLICY_HANGS, POLICY_FAILS = "late_tick", "policy_hangs", "policy_fails"
CAMERA_DIES = "camera_dies"
CRASH_KINDS = (KILLED, HUNG)
# Settings that are found when torque is asked for; a servo does not change them by itself.
SETTING_KINDS = ("duplicate_id", "wrong_baud", "settings")
# RAM that a disturbance could change while the arm is driven, and what it may become.
_RAM = {
    registers.TORQUE_ENABLE: (0, 1),
    registers.TORQUE_LIMIT: (0, 1000),
    registers.ACCELERATION: (0, 254),
    registers.GOAL_VELOCITY: (0, 3000),
    registers.GOAL_TIME: (0, 1000),
    registers.LOCK: (0, 1),
    registers.RESPONSE_STATUS_LEVEL: (0, 1),
    registers.P_COEFFICIENT: (4, 32),
}
_SETTINGS = {
    registers.HOMING_OFFSET: (-2000, 2000),
    registers.MIN_POSITION_LIMIT: (0, 2000),
    registers.MAX_POSITION_LIMIT: (2100, 4095),
    registers.OPERATING_MODE: (1, 3),
    registers.PHASE: (16, 31),
    registers.MODEL_NUMBER: (1, 700),
    registers.FIRMWARE_MINOR_VERSION: (0, 8),
}
# So many replies, and the share of them that is struck.
_STREAKS = ((1, 1.0), (1, 1.0), (1, 1.0), (3, 1.0), (10, 1.0), (10, 0.5), (60, 0.1), (60, 1.0))


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault: what is thrown, when it is over, and what it does to the program."""

    kind: str
    lasts_s: float
    thrown: tuple[ReplyFault | Event, ...] = ()


Draw = Callable[[random.Random], Strike]


def _reply(kind: str) -> Draw:
    def draw(dice: random.Random) -> Strike:
        """Single replies, streaks, or a noisy line, of some servos or of all."""
        delay_ms = 10.0 ** dice.uniform(0.0, 2.7) if kind == "late" else 0.0
        count, probability = dice.choice(_STREAKS)
        fault = ReplyFault(kind, _ids(dice), probability, delay_ms, dice.randrange(6), count)
        # A rule counts the replies that it is asked about: the servo's, at 30 ticks a second.
        return Strike(kind, (fault.after + count) / 25.0 + delay_ms / 1e3, (fault,))

    return draw


def _event(kind: str, low_s: float, high_s: float, ids: bool = True) -> Draw:
    def draw(dice: random.Random) -> Strike:
        lasts_s = dice.uniform(low_s, high_s)
        picked = _ids(dice) if ids else None
        event = Event(kind, at_s=_moment(dice), duration_s=lasts_s, ids=picked)
        return Strike(kind, lasts_s, (event,))

    return draw


def _valued(kind: str, values: tuple[float, float], low_s: float, high_s: float) -> Draw:
    def draw(dice: random.Random) -> Strike:
        lasts_s, value = dice.uniform(low_s, high_s), dice.uniform(*values)
        event = Event(kind, _moment(dice), duration_s=lasts_s, ids=_ids(dice), value=value)
        return Strike(kind, lasts_s, (event,))

    return draw


def _unplug(dice: random.Random) -> Strike:
    lasts_s = dice.choice((dice.uniform(0.05, 0.3), dice.uniform(0.3, 5.0), dice.uniform(16, 20)))
    return Strike("unplug", lasts_s, (Event("unplug", _moment(dice), duration_s=lasts_s),))


def _hot(dice: random.Random) -> Strike:
    celsius = dice.uniform(45.0, 90.0)
    event = Event("hot", _moment(dice), ids=_ids(dice), value=celsius)
    return Strike("hot", 1.0, (event,))


def _overload(dice: random.Random) -> Strike:
    return Strike("overload", 0.1, (Event("overload", _moment(dice), ids=_ids(dice)),))


def _status(dice: random.Random) -> Strike:
    bits = dice.choice((1, 2, 4, 8, 32, dice.randrange(1, 0x80)))
    lasts_s = dice.uniform(0.02, 2.0)
    event = Event("status", _moment(dice), duration_s=lasts_s, ids=_ids(dice), value=bits)
    return Strike("status", lasts_s, (event,))


def _register(dice: random.Random) -> Strike:
    register = dice.choice(list(_RAM))
    value = dice.randint(*_RAM[register])
    return Strike("register", 0.1, (_stored(dice, register, value),))


def _settings(dice: random.Random) -> Strike:
    register = dice.choice(list(_SETTINGS))
    return Strike("settings", 0.0, (_stored(dice, register, dice.randint(*_SETTINGS[register])),))


def _duplicate_id(dice: random.Random) -> Strike:
    first, second = dice.sample(range(1, 7), 2)
    event = Event("register", ids=frozenset({first}), value=second, register="id")
    return Strike("duplicate_id", 0.0, (event,))


def _wrong_baud(dice: random.Random) -> Strike:
    index = dice.randint(1, 4)
    return Strike("wrong_baud", 0.0, (_stored(dice, registers.BAUD_RATE, index),))


def _program(kind: str, low_s: float, high_s: float) -> Draw:
    return lambda dice: Strike(kind, dice.uniform(low_s, high_s))


FAULTS: dict[str, Draw] = {
    **{kind: _reply(kind) for kind in ("drop", "late", "corrupt", "truncate", "noise", "deaf")},
    "silent": _event("silent", 0.02, 3.0),
    "echo": _event("echo", 0.1, 3.0, ids=False),
    "unplug": _unplug,
    "brown_out": _event("brown_out", RESTART_S, 2.0),
    "sag": _valued("sag", (0.0, 11.5), 0.05, 3.0),
    "block": _event("block", 0.2, 4.0),
    "push": _valued("push", (-3.0, 3.0), 0.05, 2.0),
    "hot": _hot,
    "overload": _overload,
    "status": _status,
    "register": _register,
    "settings": _settings,
    "duplicate_id": _duplicate_id,
    "wrong_baud": _wrong_baud,
    LATE_TICK: _program(LATE_TICK, 0.02, 0.35),
    POLICY_HANGS: _program(POLICY_HANGS, 0.3, 12.0),
    POLICY_FAILS: _program(POLICY_FAILS, 0.6, 0.6),
    CAMERA_DIES: _program(CAMERA_DIES, 0.3, 12.0),
}
# In the order of the table.
KINDS = (NO_FAULT, GOALS, *FAULTS, KILLED, HUNG, EVERYTHING)


def _ids(dice: random.Random) -> frozenset[int] | None:
    """Return one servo, some, or all."""
    count = dice.choice((1, 1, 1, 2, 3, 6))
    return None if count == 6 else frozenset(dice.sample(range(1, 7), count))


def _moment(dice: random.Random) -> float:
    """Return a moment in or between the next ticks."""
    return dice.uniform(0.0, 0.07)


def _stored(dice: random.Random, register: registers.Register, value: int) -> Event:
    ids = frozenset({dice.randint(1, 6)})
    return Event("register", ids=ids, value=value, register=register.name)
