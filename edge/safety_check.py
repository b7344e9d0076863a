"""Look at what was commanded, tick by tick, and name every limit of the profile it broke.

A second opinion on the safety gate for tests and the fault campaign: it shares the profile and the
geometry of links with the gate, and none of its rules. A goal may always stay where the last one
was, as far as the lead allows, and go to where the arm is; a hold may go towards the arm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge.arm_profile import JointProfile
from edge.clearance import Clearances
from edge.joints import JointReading
from edge.profile import Profile

TOLERANCE = 1e-6  # of a position, in the joint's unit
TOLERANCE_M = 1e-6


@dataclass(slots=True)
class _Past:
    """One joint's last command."""

    goal: float = math.nan
    velocity: float = 0.0
    is_settled: bool = True  # its velocity was its own choice, not forced by lead or hold


class LimitCheck:
    """Follow the commands of one armed period."""

    def __init__(self, profile: Profile) -> None:
        arm = profile.arm
        self._joints = arm.joints
        self._derating = arm.derating
        self._period_s = 1.0 / arm.control_hz
        self._catch_up_s = arm.safety.catch_up_s
        self._past = [_Past() for _ in arm.joints]
        self._last_s = math.nan
        self._last_goal: np.ndarray | None = None
        self._clearances = None if arm.workspace is None else Clearances(arm.arms, arm.workspace, 1)

    def broken(
        self, goal: np.ndarray, reading: JointReading, now_s: float, held: bool
    ) -> list[str]:
        """Return one line for each limit that a written goal (n_joints,) breaks.

        `reading` is what the gate knew, `now_s` the time of its check, `held` whether it held.
        """
        if goal.shape != (len(self._joints),) or not np.isfinite(goal).all():
            return [f"goal is {goal}: not {len(self._joints)} finite numbers"]
        since_s = self._period_s if math.isnan(self._last_s) else now_s - self._last_s
        problems = []
        for number, joint in enumerate(self._joints):
            present, asked = float(reading.positions[number]), float(goal[number])
            max_lead = joint.max_lead * self._lead_share(float(reading.temperatures_c[number]))
            past = self._past[number]
            problems += self._position(joint, past, asked, present, max_lead)
            problems += self._motion(joint, past, asked, present, max_lead, since_s, held)
        problems += self._nearness(goal, reading.positions, held)
        self._last_s, self._last_goal = now_s, goal.copy()
        return problems

    def _lead_share(self, temperature_c: float) -> float:
        hot = self._derating.temperature
        over = _within((temperature_c - hot.derate_c) / (hot.stop_c - hot.derate_c), 0.0, 1.0)
        return 1.0 - over * (1.0 - self._derating.lead_share)

    def _position(
        self, joint: JointProfile, past: _Past, goal: float, present: float, max_lead: float
    ) -> list[str]:
        problems = []
        lead = abs(goal - present)
        if lead > max_lead + TOLERANCE:
            problems.append(f"{joint.name}: lead {lead:.6g}, limit {max_lead:g}")
        allowed = max(_outside(joint, present), _outside(joint, past.goal))
        if _outside(joint, goal) > allowed + TOLERANCE:
            problems.append(f"{joint.name}: goal {goal:.6g}, limits {joint.low:g}..{joint.high:g}")
        return problems

    def _motion(
        self,
        joint: JointProfile,
        past: _Past,
        goal: float,
        present: float,
        max_lead: float,
        since_s: float,
        held: bool,
    ) -> list[str]:
        lowest, highest = present - max_lead, present + max_lead
        before = past.goal if past.goal == past.goal else present
        step_s = min(max(since_s, 0.0), self._catch_up_s)
        change = joint.max_acceleration * step_s
        velocity = _within(past.velocity, -joint.max_velocity, joint.max_velocity)
        slowest, fastest = velocity - change, velocity + change
        if not past.is_settled or since_s > self._catch_up_s:
            slowest, fastest = min(slowest, -change), max(fastest, change)
        slowest = max(slowest, -joint.max_velocity)
        fastest = min(fastest, joint.max_velocity)
        low, high = before + slowest * step_s, before + fastest * step_s
        in_reach = low - TOLERANCE <= goal <= high + TOLERANCE
        past.goal = goal
        at_arm = abs(goal - present) <= TOLERANCE
        leads = abs(goal - present) >= max_lead - TOLERANCE
        chosen = in_reach and not (held or leads or at_arm)
        past.is_settled = chosen and (past.is_settled or step_s > 0.0)
        if step_s > 0.0:
            past.velocity = (goal - before) / step_s
        stays = abs(goal - _within(before, lowest, highest)) <= TOLERANCE
        nearer = held and min(before, present) <= goal + TOLERANCE
        nearer = nearer and goal <= max(before, present) + TOLERANCE
        # Where reach and lead have nothing in common, the end of the lead that is nearest.
        low, high = _within(low, lowest, highest), _within(high, lowest, highest)
        if stays or at_arm or nearer or low - TOLERANCE <= goal <= high + TOLERANCE:
            return []
        moved = abs(goal - before)
        if moved > joint.max_velocity * step_s + TOLERANCE:
            return [
                f"{joint.name}: moved {moved:.6g} in {since_s * 1e3:.4g} ms, "
                f"limit {joint.max_velocity:g}/s"
            ]
        return [
            f"{joint.name}: velocity from {velocity:.6g} to {past.velocity:.6g}/s in "
            f"{since_s * 1e3:.4g} ms, limit {joint.max_acceleration:g}/s2"
        ]

    def _nearness(self, goal: np.ndarray, present: np.ndarray, held: bool) -> list[str]:
        """Name what the goal brings too near, unless the last goal or the arm itself is there."""
        if self._clearances is None:
            return []
        found_m = self._measure(goal)
        least_m = self._clearances.limits_m.copy()
        if not (found_m < least_m - TOLERANCE_M).any():
            return []
        poses = [present] if self._last_goal is None else [present, self._last_goal]
        if held:  # the arm as it is, with the gripper's squeeze
            grips = np.array([joint.is_gripper for joint in self._joints])
            poses.append(np.where(grips, goal, present))
        for pose in poses:
            np.minimum(least_m, self._measure(pose), out=least_m)
        return [
            f"{check.text}: {found * 1e3:.4g} mm, limit {check.limit_m * 1e3:g} mm"
            for check, found, least in zip(self._clearances.checks, found_m, least_m, strict=True)
            if found < least - TOLERANCE_M
        ]

    def _measure(self, pose: np.ndarray) -> np.ndarray:
        return self._clearances.measure(pose[None, :])[0].copy()


def _outside(joint: JointProfile, position: float) -> float:
    """Return how far beyond its range a position is, 0 inside it."""
    return max(joint.low - position, position - joint.high, 0.0)


def _within(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))
