"""The last thing a goal meets before the servo bus: pass, clamp, hold or stop, with the reason.

The gate trusts nobody: not the model, not the chunk buffer, not the age of what it is told. Every
tick all rules look, and the gravest finding decides; among equals the first of this list:

 1. state     everything measured is a number and fresh, else hold, later stop
 2. servos    no fault bit, not too hot, supply not sagging (`edge.servo_health`)
 3. tick      not too late, and not often late
 4. cameras   every newest picture is fresh
 5. goal      there is one, it is a number, and the actions behind it are not too old
 6. stall     no joint pushes against something (`edge.stall`)
 7. start     the first goal ever is near the arm, else stop (a wrong joint frame shows here)

What is left is bent: range, velocity, acceleration and lead (`edge.limits`), then table and
collisions (`edge.workspace`). A hold goes the same way, so nothing is written that was not bent.

A hold latches the first measured position: following the measurement would let the arm creep down
under gravity, a little more each tick. A gripper keeps a small squeeze.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge.joints import JointReading
from edge.limits import ROUNDING, MotionLimits
from edge.profile import Profile
from edge.servo_health import ServoHealth
from edge.stall import StallWatch
from edge.verdict import NOTHING, Finding, Outcome, Rule, Verdict
from edge.workspace import Workspace

_MEASURED = ("positions", "velocities", "currents_ma", "voltages_v", "temperatures_c")


@dataclass(frozen=True, slots=True)
class TickAges:
    """How late this tick is and how old is what it follows, in seconds; nan = there is none."""

    late_s: float  # after the deadline of the first tick that was not run
    chunk_s: float  # of the observation behind the actions that are followed
    cameras_s: tuple[float, ...]  # of each camera's newest picture, in profile order


class SafetyGate:
    """Check every goal against the profile; one instance per armed period, one thread."""

    def __init__(self, profile: Profile) -> None:
        arm = profile.arm
        self._names = [joint.name for joint in arm.joints]
        self._in_degrees = np.array([not joint.is_gripper for joint in arm.joints])
        self._max_velocity = np.array([joint.max_velocity for joint in arm.joints])
        self._times = arm.safety
        self._start_gate_deg = profile.start_gate_deg
        self._max_chunk_age_s = profile.board.max_chunk_age_s
        self._cameras = profile.cameras
        self._period_s = 1.0 / arm.control_hz
        n_joints = len(arm.joints)
        self._limits = MotionLimits(arm)
        self._health = ServoHealth(arm)
        self._stall = StallWatch(arm)
        self._workspace = None if arm.workspace is None else Workspace(arm)
        self._latched = np.zeros(n_joints)
        self._measured = np.zeros((len(_MEASURED), n_joints))
        self._is_number = np.zeros((len(_MEASURED), n_joints), bool)
        self._commanded = False  # a goal of our own has been let through
        self._started = False  # the start gate has been passed
        self._checked_s: float | None = None
        self._seen_s = math.nan  # of the newest measurement looked at
        self._hold_since_s: float | None = None
        self._late_ticks = [-math.inf] * arm.safety.late_ticks
        self._n_late = 0
        self._stopped: Verdict | None = None

    def slow_to(self, speed_share: float) -> None:
        """Leave the arm this share of its speed limits at most, from the next measurement on."""
        self._health.slow_to(speed_share)

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
        since_s = self._period_s if self._checked_s is None else max(0.0, now_s - self._checked_s)
        step_s = min(since_s, self._times.catch_up_s)
        self._checked_s = now_s
        if since_s > step_s:
            self._limits.stand_still(since_s - step_s)
        finding = self._unmeasured(reading)
        if finding is None:
            finding = self._judge(goal, reading, now_s, ages, missing)
            if finding.outcome is Outcome.HOLD:
                finding = self._hold(finding, reading.positions, now_s, step_s)
            elif finding.outcome is not Outcome.STOP:
                self._hold_since_s = None
                finding = self._follow(goal, finding, reading.positions, step_s)
        if finding.outcome is Outcome.STOP:
            self._stopped = Verdict(None, finding)
            return self._stopped
        self._limits.accept(step_s)
        return Verdict(self._limits.goal, finding)

    def _unmeasured(self, reading: JointReading) -> Finding | None:
        """Stop on a measurement that is not a number; it says nothing about where the arm is."""
        for row, name in enumerate(_MEASURED):
            np.copyto(self._measured[row], getattr(reading, name))
        np.isfinite(self._measured, out=self._is_number)
        if self._is_number.all():
            return None
        row, joint = (int(index) for index in np.argwhere(~self._is_number)[0])
        what = _MEASURED[row].replace("_", " ").replace("positions", "position")
        note = f"{self._names[joint]}: measured {what} is {self._measured[row, joint]}"
        return Finding(Outcome.STOP, Rule.STATE, self._names[joint], note=note)

    def _judge(
        self,
        goal: np.ndarray | None,
        reading: JointReading,
        now_s: float,
        ages: TickAges,
        missing: str,
    ) -> Finding:
        """Let every rule look; return the gravest finding, the first of them among equals."""
        if reading.t_s != self._seen_s:
            self._seen_s = reading.t_s
            self._health.observe(reading)
            if self._commanded:
                self._stall.observe(reading, self._limits.goal)
        worst = self._judge_state(now_s - reading.t_s)
        worst = _graver(worst, self._health.finding)
        worst = _graver(worst, self._judge_lateness(ages.late_s, now_s))
        worst = _graver(worst, self._judge_cameras(ages.cameras_s))
        goal_finding = self._judge_goal(goal, ages.chunk_s, missing)
        worst = _graver(worst, goal_finding)
        followed = None if goal_finding.outcome is Outcome.HOLD else goal
        worst = _graver(worst, self._stall.judge(followed, now_s))
        if not self._started and worst.outcome < Outcome.HOLD:
            worst = self._judge_start(goal, reading.positions)
            self._started = worst is NOTHING
        return worst

    def _judge_state(self, age_s: float) -> Finding:
        if age_s <= self._times.hold_state_age_s:
            return NOTHING
        if age_s <= self._times.stop_state_age_s:
            limit_s = self._times.hold_state_age_s
            return Finding(Outcome.HOLD, Rule.STATE, value=age_s, limit=limit_s)
        limit_s = self._times.stop_state_age_s
        return Finding(Outcome.STOP, Rule.STATE, value=age_s, limit=limit_s)

    def _judge_lateness(self, late_s: float, now_s: float) -> Finding:
        limit_s = self._times.late_tick_s
        if late_s <= limit_s:
            return NOTHING
        slot = self._n_late % len(self._late_ticks)
        earliest_s, self._late_ticks[slot] = self._late_ticks[slot], now_s
        self._n_late += 1
        found = Finding(Outcome.HOLD, Rule.LATE, value=late_s, limit=limit_s)
        window_s = self._times.late_window_s
        if now_s - earliest_s > window_s:
            return found
        often = f", more than {len(self._late_ticks)} times in {window_s:g} s; free the machine"
        return found._replace(outcome=Outcome.STOP, note=found.reason + often)

    def _judge_cameras(self, ages_s: tuple[float, ...]) -> Finding:
        if len(ages_s) != len(self._cameras):
            raise ValueError(f"{len(ages_s)} camera ages for {len(self._cameras)} cameras")
        for camera, age_s in zip(self._cameras, ages_s, strict=True):
            if not age_s <= camera.max_age_s:
                limit_s = camera.max_age_s
                note = "" if math.isfinite(age_s) else f"camera {camera.name}: no picture yet"
                return Finding(
                    Outcome.HOLD, Rule.CAMERA, "", age_s, limit_s, part=camera.name, note=note
                )
        return NOTHING

    def _judge_goal(self, goal: np.ndarray | None, chunk_s: float, missing: str) -> Finding:
        if goal is None:
            return Finding(Outcome.HOLD, Rule.GOAL, note=missing)
        if not np.isfinite(goal).all():
            joint = int(np.argmin(np.isfinite(goal)))
            note = f"{self._names[joint]}: goal is {goal[joint]}"
            return Finding(Outcome.HOLD, Rule.GOAL, self._names[joint], note=note)
        if not chunk_s <= self._max_chunk_age_s:
            note = "" if math.isfinite(chunk_s) else "the age of the actions is not known"
            limit_s = self._max_chunk_age_s
            return Finding(Outcome.HOLD, Rule.CHUNK, "", chunk_s, limit_s, note=note)
        return NOTHING

    def _judge_start(self, goal: np.ndarray, present: np.ndarray) -> Finding:
        far = np.where(self._in_degrees, np.abs(goal - present), 0.0)
        joint = int(np.argmax(far))
        limit_deg = self._start_gate_deg
        if far[joint] <= limit_deg + ROUNDING:
            return NOTHING
        name = self._names[joint]
        note = (
            f"{name}: first goal {goal[joint]:.4g} deg is {far[joint]:.4g} from the present "
            f"{present[joint]:.1f}, limit {limit_deg:.1f}; check the checkpoint_frame of the arm "
            "profile, or move the arm there"
        )
        return Finding(
            Outcome.STOP, Rule.START, name, float(far[joint]), limit_deg, "deg", note=note
        )

    def _follow(
        self, goal: np.ndarray, finding: Finding, present: np.ndarray, step_s: float
    ) -> Finding:
        limits, health, low = self._limits, self._health, self._stall.low
        self._begin(present)
        is_asked = limits.step_to(
            goal, low, present, step_s, health.speed_share, health.lead_shares
        )
        kept_out = self._keep_out(present)
        if finding is not NOTHING:
            return finding
        if kept_out is not None or is_asked:
            return kept_out or NOTHING
        return self._blamed(limits.explain(goal, low, step_s))

    def _hold(self, finding: Finding, present: np.ndarray, now_s: float, step_s: float) -> Finding:
        if self._hold_since_s is None:
            self._hold_since_s = now_s
            np.copyto(self._latched, present)
            if self._commanded:
                self._stall.latch(self._latched, self._limits.goal)
            self._commanded = True
            self._rest_at(self._latched)
        held_s, limit_s = now_s - self._hold_since_s, self._times.max_hold_s
        if held_s > limit_s:
            note = f"held for {held_s:.1f} s, limit {limit_s:.1f}: {finding.reason}"
            return Finding(Outcome.STOP, Rule.HOLD_TIME, "", held_s, limit_s, "s", note=note)
        self._limits.step_to_rest(self._latched, present, step_s, self._health.lead_shares)
        self._keep_out(present)
        return finding

    def _begin(self, present: np.ndarray) -> None:
        if not self._commanded:
            self._commanded = True
            self._rest_at(present)

    def _rest_at(self, positions: np.ndarray) -> None:
        self._limits.rest_at(positions)
        if self._workspace is not None:
            self._workspace.forget()

    def _keep_out(self, present: np.ndarray) -> Finding | None:
        if self._workspace is None:
            return None
        limits = self._limits
        return self._workspace.follow(
            limits.next_goal, limits.goal, present, limits.lowest, limits.highest
        )

    def _blamed(self, finding: Finding) -> Finding:
        """Name what slowed the arm down where the joint's own velocity limit did not."""
        if finding.rule is not Rule.VELOCITY or self._health.slowed_by is NOTHING:
            return finding
        joint = self._names.index(finding.joint)
        within = finding.value <= self._max_velocity[joint]
        slowed_by = self._health.slowed_by
        slowed_by = slowed_by if slowed_by.joint else slowed_by._replace(joint=finding.joint)
        return slowed_by if within else finding


def _graver(one: Finding, other: Finding) -> Finding:
    return other if other.outcome > one.outcome else one
