"""What the safety gate answers: one outcome, the rule that decided, and the numbers behind it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Outcome(enum.IntEnum):
    """What the gate did with a goal, from harmless to final."""

    PASS = 0
    CLAMP = 1
    HOLD = 2
    STOP = 3


class Rule(enum.IntEnum):
    """The rule that decided."""

    NONE = 0
    STATE = 1
    GOAL = 2
    START = 3
    RANGE = 4
    VELOCITY = 5
    LEAD = 6
    HOLD_TIME = 7
    ACCELERATION = 8
    TABLE = 9
    COLLISION = 10
    STALL = 11
    TEMPERATURE = 12
    VOLTAGE = 13
    SERVO_FAULT = 14
    CAMERA = 15
    CHUNK = 16
    LATE = 17
    LADDER = 18


# Of a finding without a text of its own; {unit} is the joint's, or what the rule says here.
_TEXTS = {
    Rule.RANGE: "{joint}: goal {value:.5g}, limit {limit:.2f} {unit}",
    Rule.VELOCITY: "{joint}: velocity {value:.5g}, limit {limit:.2f} {unit}/s",
    Rule.ACCELERATION: "{joint}: acceleration {value:.5g}, limit {limit:.0f} {unit}/s2",
    Rule.LEAD: "{joint}: lead over the measured position {value:.5g}, limit {limit:.2f} {unit}",
    Rule.TABLE: "{joint}: brings the {part} to {value:.0f} mm over the table, limit {limit:.0f} mm",
    Rule.COLLISION: "{joint}: brings the {part} within {value:.0f} mm, limit {limit:.0f} mm",
    Rule.STALL: "{joint}: blocked with {value:.0f} mA, limit {limit:.0f} mA{part}",
    Rule.TEMPERATURE: "{joint}: servo at {value:.0f} C, limit {limit:.0f} C{part}",
    Rule.VOLTAGE: "{joint}: supply at {value:.1f} V, limit {limit:.1f} V{part}",
    Rule.SERVO_FAULT: "{joint}: servo reports {part}",
    Rule.STATE: "servo state is {value_ms:.0f} ms old, limit {limit_ms:.0f} ms",
    Rule.CAMERA: "camera {part}: newest picture is {value_ms:.0f} ms old, limit {limit_ms:.0f} ms",
    Rule.CHUNK: "actions are from {value:.1f} s ago, limit {limit:.1f} s",
    Rule.LATE: "tick is {value_ms:.0f} ms late, limit {limit_ms:.0f} ms",
    Rule.LADDER: "{joint}: slowed down by the ladder to {value:.0%} of the speed limits",
}


class Finding(NamedTuple):
    """What one rule found, before it is known whether a graver one decides."""

    outcome: Outcome
    rule: Rule
    joint: str = ""
    value: float = math.nan
    limit: float = math.nan
    unit: str = ""
    part: str = ""  # what else the text names: a link, a camera, a fault
    note: str = ""  # the whole text, where the rule's own does not do

    @property
    def reason(self) -> str:
        """Say which joint, value and limit decided, or what was missing; "" for a plain pass."""
        if self.note or self.rule is Rule.NONE:
            return self.note
        return _TEXTS[self.rule].format(
            joint=self.joint,
            value=self.value,
            limit=self.limit,
            unit=self.unit,
            part=self.part,
            value_ms=self.value * 1e3,
            limit_ms=self.limit * 1e3,
        )


NOTHING = Finding(Outcome.PASS, Rule.NONE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One exit for every command: what to write (None = nothing) and why."""

    goal: np.ndarray | None  # (n_joints,) float64, the gate's buffer: valid until the next check
    finding: Finding

    @property
    def outcome(self) -> Outcome:
        """Pass, clamp, hold or stop."""
        return self.finding.outcome

    @property
    def rule(self) -> Rule:
        """The rule that decided."""
        return self.finding.rule

    @property
    def joint(self) -> str:
        """The joint it names, "" for none."""
        return self.finding.joint

    @property
    def value(self) -> float:
        """What was asked or measured, nan where the rule has no number."""
        return self.finding.value

    @property
    def limit(self) -> float:
        """What is allowed, nan where the rule has no number."""
        return self.finding.limit

    @property
    def reason(self) -> str:
        """Say which joint, value and limit decided; "" for a plain pass."""
        return self.finding.reason
