"""The last thing a goal meets before the servo bus: pass, clamp, hold or stop, with the reason.

The gate trusts nobody: not the model, not the chunk buffer, not the age of what it is told. Per
check, in this order:

1. state    the measured positions are finite and fresh, else hold, later stop
2. goal     none (no chunk, policy failed): hold, for a limited time; not finite: hold
3. start    the first goal ever must be near the arm, else stop (a wrong joint frame shows here)
4. range    inside the joint's range less its margin
5. velocity the change since the last goal, by the host's clock and not by the number of calls
6. lead     goal minus present: bounds how hard a blocked joint pushes, and what a dead host
            leaves behind; it wins over velocity when something moves the arm

A hold latches the first measured position: following the measurement would let the arm creep down
under gravity, a little more each tick. The latched goal still obeys the lead limit.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from edge.joints import JointReading
from edge.profile import Profile

# A goal may exceed a limit by this much without being called clamped: rounding, not motion.
ROUNDING = 1e-9
# Lateness is forgiven this many control periods of motion, so a stall does not bank a jump.
MAX_PERIODS_PER_CHECK = 2.0


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


@dataclass(frozen=True, slots=True)
class TickAges:
    """How late this tick is and how old is what it follows, in seconds; nan = there is none."""

    late_s: float  # of the tick after its deadline
    chunk_s: float  # of the observation behind the actions that are followed
    cameras_s: tuple[float, ...]  # of each camera's newest picture, in profile order


@dataclass(frozen=True, slots=True)
class Verdict:
    """One exit for every command: what to write (None = nothing) and why."""

    outcome: Outcome
    goal: np.ndarray | None  # (n_joints,) float64, the gate's buffer: valid until the next check
    rule: Rule = Rule.NONE
    joint: str = ""
    value: float = math.nan
    limit: float = math.nan
    note: str = ""

    @property
    def reason(self) -> str:
        """Say which joint, value and limit decided, or what was missing; "" for a plain pass."""
        if self.note:
            return self.note
        if self.rule is Rule.NONE:
            return ""
        unit = "/s" if self.rule is Rule.VELOCITY else ""
        return (
            f"{self.joint}: {self.rule.name.lower()} {self.value:.2f}{unit}, "
            f"limit {self.limit:.2f}{unit}"
        )


class SafetyGate:
    """Check every goal against the arm profile; one instance per armed period, one thread."""

    def __init__(self, profile: Profile) -> None:
        arm = profile.arm
        self._names = [joint.name for joint in arm.joints]
        self._low = np.array([joint.low for joint in arm.joints])
        self._high = np.array([joint.high for joint in arm.joints])
        self._max_velocity = np.array([joint.max_velocity for joint in arm.joints])
        self._max_lead = np.array([joint.max_lead for joint in arm.joints])
        self._in_degrees = np.array([joint.unit == "degrees" for joint in arm.joints])
        self._times = arm.safety
        self._start_gate_deg = profile.start_gate_deg
        self._period_s = 1.0 / arm.control_hz
        n_joints = len(arm.joints)
        self._goal = np.zeros(n_joints)  # what the last verdict let through
        self._wanted = np.zeros(n_joints)
        self._latched = np.zeros(n_joints)
        self._scratch = np.zeros(n_joints)
        self._commanded = False  # a goal of our own has been let through
        self._started = False  # the start gate has been passed
        self._checked_s: float | None = None
        self._hold_since_s: float | None = None
        self._stopped: Verdict | None = None

    def check(
        self,
        goal: np.ndarray | None,
        reading: JointReading,
        now_s: float,
        ages: TickAges,
        missing: str,
    ) -> Verdict:
        """Judge one goal, (n_joints,) in joint units; times on one monotonic clock.

        `reading` is the last good one, however old. `goal` None means that there is nothing to
        follow, and `missing` says why. After a stop every further check is that stop.
        """
        if self._stopped is not None:
            return self._stopped
        since_s = self._period_s if self._checked_s is None else now_s - self._checked_s
        step_s = min(max(since_s, 0.0), MAX_PERIODS_PER_CHECK * self._period_s)
        self._checked_s = now_s
        present = reading.positions
        state_age_s = now_s - reading.t_s
        verdict = self._judge_state(present, state_age_s, now_s)
        if verdict is None:
            verdict = self._judge_goal(goal, present, now_s, step_s, missing)
        if verdict.outcome is Outcome.STOP:
            self._stopped = verdict
        return verdict

    def _judge_state(self, present: np.ndarray, age_s: float, now_s: float) -> Verdict | None:
        if not np.isfinite(present).all():
            joint = int(np.argmin(np.isfinite(present)))
            return self._stop(
                Rule.STATE, f"{self._names[joint]}: measured position is {present[joint]}"
            )
        if age_s > self._times.stop_state_age_s:
            limit_s = self._times.stop_state_age_s
            return self._stop(Rule.STATE, _age_text(age_s, limit_s), age_s, limit_s)
        if age_s > self._times.hold_state_age_s:
            limit_s = self._times.hold_state_age_s
            note = _age_text(age_s, limit_s)
            return self._hold(Rule.STATE, note, present, now_s, age_s, limit_s)
        return None

    def _judge_goal(
        self,
        goal: np.ndarray | None,
        present: np.ndarray,
        now_s: float,
        step_s: float,
        missing: str,
    ) -> Verdict:
        if goal is None:
            return self._hold(Rule.GOAL, missing, present, now_s)
        if not np.isfinite(goal).all():
            joint = int(np.argmin(np.isfinite(goal)))
            note = f"{self._names[joint]}: goal is {goal[joint]}"
            return self._hold(Rule.GOAL, note, present, now_s)
        if not self._started:
            far = np.where(self._in_degrees, np.abs(goal - present), 0.0)
            joint = int(np.argmax(far))
            if far[joint] > self._start_gate_deg + ROUNDING:
                note = (
                    f"{self._names[joint]}: first goal {goal[joint]:.1f} deg is {far[joint]:.1f} "
                    f"from the present {present[joint]:.1f}, limit {self._start_gate_deg:.1f}; "
                    "check the checkpoint_frame of the arm profile, or move the arm there"
                )
                return self._stop(Rule.START, note, float(far[joint]), self._start_gate_deg)
            self._started = True
        self._hold_since_s = None
        return self._limit(goal, present, step_s)

    def _limit(self, goal: np.ndarray, present: np.ndarray, step_s: float) -> Verdict:
        wanted, scratch = self._wanted, self._scratch
        np.copyto(wanted, goal)
        if not self._commanded:
            np.copyto(self._goal, present)
            self._commanded = True
        verdict: Verdict | None = None

        np.clip(wanted, self._low, self._high, out=scratch)
        joint = _worst(wanted, scratch)
        if joint is not None:
            limit = self._high[joint] if wanted[joint] > self._high[joint] else self._low[joint]
            verdict = self._clamp(Rule.RANGE, joint, wanted[joint], limit)

        step = self._max_velocity * step_s
        np.copyto(wanted, scratch)
        np.clip(wanted, self._goal - step, self._goal + step, out=scratch)
        joint = _worst(wanted, scratch)
        if joint is not None and verdict is None:
            asked = abs(wanted[joint] - self._goal[joint]) / max(step_s, ROUNDING)
            verdict = self._clamp(Rule.VELOCITY, joint, asked, self._max_velocity[joint])

        np.copyto(wanted, scratch)
        np.clip(wanted, present - self._max_lead, present + self._max_lead, out=scratch)
        joint = _worst(wanted, scratch)
        if joint is not None and verdict is None:
            asked = wanted[joint] - present[joint]
            limit = math.copysign(self._max_lead[joint], asked)
            verdict = self._clamp(Rule.LEAD, joint, asked, limit)

        np.copyto(self._goal, scratch)
        return verdict or Verdict(Outcome.PASS, self._goal)

    def _clamp(self, rule: Rule, joint: int, value: float, limit: float) -> Verdict:
        return Verdict(
            Outcome.CLAMP, self._goal, rule, self._names[joint], float(value), float(limit)
        )

    def _hold(
        self,
        rule: Rule,
        note: str,
        present: np.ndarray,
        now_s: float,
        value: float = math.nan,
        limit: float = math.nan,
    ) -> Verdict:
        if self._hold_since_s is None:
            self._hold_since_s = now_s
            np.copyto(self._latched, present)
        held_s = now_s - self._hold_since_s
        if held_s > self._times.max_hold_s:
            limit_s = self._times.max_hold_s
            note = f"held for {held_s:.1f} s, limit {limit_s:.1f}: {note}"
            return self._stop(Rule.HOLD_TIME, note, held_s, limit_s)
        np.clip(self._latched, present - self._max_lead, present + self._max_lead, out=self._goal)
        self._commanded = True
        return Verdict(Outcome.HOLD, self._goal, rule, "", value, limit, note)

    def _stop(
        self, rule: Rule, note: str, value: float = math.nan, limit: float = math.nan
    ) -> Verdict:
        return Verdict(Outcome.STOP, None, rule, "", value, limit, note)


def _worst(asked: np.ndarray, allowed: np.ndarray) -> int | None:
    """Return the joint that was cut the most, None when the difference is only rounding."""
    cut = np.abs(asked - allowed)
    joint = int(np.argmax(cut))
    return joint if cut[joint] > ROUNDING else None


def _age_text(age_s: float, limit_s: float) -> str:
    return f"servo state is {age_s * 1e3:.0f} ms old, limit {limit_s * 1e3:.0f}"
