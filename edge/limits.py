"""Bend a goal so that it stays in range, speeds up and brakes gently, and never leads by much.

The goal that is let through is a point that travels: it has a place and a velocity, and a policy's
goal is where it should be next. It goes there in one step when speed and change of speed allow, and
otherwise catches up and brakes in time. It brakes before the ends of the range too: from v, ends at
least v^2 / 2a away are reached without breaking the acceleration limit, whatever the steps in time
are. Lead wins over all of this, since it bounds how hard a joint pushes.
"""

from __future__ import annotations

import math

import numpy as np

from edge.arm_profile import ArmProfile
from edge.verdict import NOTHING, Finding, Outcome, Rule

# A goal may differ from what was asked by this much without being called clamped.
ROUNDING = 1e-9


class MotionLimits:
    """Where the travelling goal is, how fast it goes, and how it may go on."""

    def __init__(self, arm: ArmProfile) -> None:
        joints = arm.joints
        n_joints = len(joints)
        self._names = [joint.name for joint in joints]
        self._units = ["percent" if joint.is_gripper else "deg" for joint in joints]
        self._low = np.array([joint.low for joint in joints])
        self._high = np.array([joint.high for joint in joints])
        self._max_velocity = np.array([joint.max_velocity for joint in joints])
        self._acceleration = np.array([joint.max_acceleration for joint in joints])
        self._max_lead = np.array([joint.max_lead for joint in joints])
        self.goal = np.zeros(n_joints)  # what was let through last
        self.lowest = np.zeros(n_joints)  # nearest and furthest that the lead allows this tick
        self.highest = np.zeros(n_joints)
        self.next_goal = np.zeros(n_joints)
        self._planned = np.zeros(n_joints)  # the next goal without what lead and workspace change
        self._velocity = np.zeros(n_joints)
        self._step_velocity = np.zeros(n_joints)
        self._target = np.zeros(n_joints)  # what was asked, inside the range
        self._last_target = np.zeros(n_joints)
        self._target_moves = False
        self._top_speed = np.zeros(n_joints)
        self._lead = np.zeros(n_joints)
        self._steps = np.zeros(n_joints)
        self._change, self._asked_velocity = np.zeros(n_joints), np.zeros(n_joints)
        self._a, self._b, self._c = np.zeros(n_joints), np.zeros(n_joints), np.zeros(n_joints)

    def rest_at(self, positions: np.ndarray) -> None:
        """Put the travelling goal at `positions` (n_joints,), at rest."""
        np.copyto(self.goal, positions)
        self._velocity.fill(0.0)
        self._target_moves = False

    def stand_still(self, time_s: float) -> None:
        """Brake for a time in which nobody moved the goal."""
        np.absolute(self._velocity, out=self._a)
        np.multiply(self._acceleration, time_s, out=self._b)
        np.subtract(self._a, self._b, out=self._a)
        np.maximum(self._a, 0.0, out=self._a)
        np.copysign(self._a, self._velocity, out=self._velocity)

    def step_to(
        self,
        asked: np.ndarray,
        low: np.ndarray,
        present: np.ndarray,
        step_s: float,
        speed_share: float,
        lead_shares: np.ndarray,
    ) -> bool:
        """Compute `next_goal` for a step of `step_s`; say whether it is what was asked.

        `low` (n_joints,) raises the lower ends of the range, the shares scale speed and lead.
        """
        np.maximum(asked, self._low, out=self._target)
        np.maximum(self._target, low, out=self._target)
        np.minimum(self._target, self._high, out=self._target)
        self._step(present, step_s, speed_share, lead_shares)
        np.subtract(asked, self.next_goal, out=self._b)
        np.absolute(self._b, out=self._b)
        return bool(self._b.max() <= ROUNDING)

    def step_to_rest(
        self, latched: np.ndarray, present: np.ndarray, step_s: float, lead_shares: np.ndarray
    ) -> None:
        """Compute `next_goal` for an arm that stays where it is, be that outside its range."""
        np.copyto(self._target, latched)
        self._step(present, step_s, 1.0, lead_shares)

    def _step(
        self, present: np.ndarray, step_s: float, speed_share: float, lead_shares: np.ndarray
    ) -> None:
        if step_s > 0.0:
            np.multiply(self._max_velocity, speed_share, out=self._top_speed)
            np.multiply(self._acceleration, step_s, out=self._change)
            self._choose_velocity(step_s)
            np.multiply(self._step_velocity, step_s, out=self._planned)
            np.add(self.goal, self._planned, out=self._planned)
        else:
            np.copyto(self._planned, self.goal)
        np.multiply(self._max_lead, lead_shares, out=self._lead)
        np.subtract(present, self._lead, out=self.lowest)
        np.add(present, self._lead, out=self.highest)
        np.maximum(self._planned, self.lowest, out=self.next_goal)
        np.minimum(self.next_goal, self.highest, out=self.next_goal)

    def accept(self, step_s: float) -> None:
        """Make `next_goal`, as it may have been changed since, the goal that is let through."""
        self._note_velocity(step_s)
        np.copyto(self.goal, self.next_goal)
        np.copyto(self._last_target, self._target)
        self._target_moves = step_s > 0.0

    def explain(self, asked: np.ndarray, low: np.ndarray, step_s: float) -> Finding:
        """Name the limit that kept `next_goal` from what was `asked`."""
        return (
            self._explain_range(asked, low)
            or self._explain_lead()
            or (self._explain_motion(step_s) if step_s > 0.0 else self._explain_no_time())
            or NOTHING
        )

    def _choose_velocity(self, step_s: float) -> None:
        """Write to `_step_velocity` what leads to the target soonest within the limits.

        Seen from a target that keeps its own velocity: stop there. From k a dt, braking covers
        a dt^2 k (k + 1) / 2, so with e between that for k and for k + 1 the fastest that can stop
        at e, in steps of a dt, is (e / a dt^2 + k (k + 1) / 2) / (k + 1), in units of a dt.
        """
        v, a, b, c = self._step_velocity, self._a, self._b, self._c
        np.subtract(self._target, self.goal, out=a)
        np.divide(a, step_s, out=self._asked_velocity)
        if self._target_moves:
            np.subtract(self._target, self._last_target, out=v)
            np.divide(v, step_s, out=v)
            _limit(v, self._max_velocity, c)
        else:
            v.fill(0.0)
        np.subtract(self._asked_velocity, v, out=a)  # e / dt
        np.absolute(a, out=b)
        np.divide(b, self._change, out=b)  # e, in units of a dt^2
        np.multiply(b, 8.0, out=c)
        np.add(c, 1.0, out=c)
        np.sqrt(c, out=c)
        np.subtract(c, 1.0, out=c)
        np.multiply(c, 0.5, out=c)
        np.floor(c, out=c)  # k
        np.add(c, 1.0, out=self._steps)
        np.multiply(c, self._steps, out=c)
        np.multiply(c, 0.5, out=c)
        np.add(b, c, out=b)
        np.divide(b, self._steps, out=b)
        np.multiply(b, self._change, out=b)
        np.copysign(b, a, out=b)
        np.add(v, b, out=v)
        _limit(v, self._top_speed, c)
        self._brake_for_ends(v, a, b)
        np.subtract(self._velocity, self._change, out=a)
        np.add(self._velocity, self._change, out=b)
        np.maximum(v, a, out=v)
        np.minimum(v, b, out=v)

    def _brake_for_ends(self, v: np.ndarray, room: np.ndarray, fastest: np.ndarray) -> None:
        """Keep v^2 / 2a, after this step, within what is left to either end of the range."""
        np.subtract(self._high, self.goal, out=room)
        self._fastest_within(room, fastest)
        np.minimum(v, fastest, out=v)
        np.subtract(self.goal, self._low, out=room)
        self._fastest_within(room, fastest)
        np.negative(fastest, out=fastest)
        np.maximum(v, fastest, out=v)

    def _fastest_within(self, room: np.ndarray, out: np.ndarray) -> None:
        """Solve v dt + v^2 / 2a = room, as 2 room / (dt + sqrt(dt^2 + 2 room / a)) loses nothing.

        With `_change` = a dt this is 2 room a / (a dt + sqrt((a dt)^2 + 2 a room)).
        """
        np.maximum(room, 0.0, out=room)
        np.multiply(room, self._acceleration, out=room)
        np.multiply(room, 2.0, out=room)
        np.multiply(self._change, self._change, out=out)
        np.add(out, room, out=out)
        np.sqrt(out, out=out)
        np.add(out, self._change, out=out)
        np.divide(room, out, out=out)

    def _note_velocity(self, step_s: float) -> None:
        """Take the velocity from what was really done, as far as it can be kept up."""
        v, a, b = self._velocity, self._a, self._b
        if step_s > 0.0:
            np.copyto(v, self._step_velocity)
        if np.array_equal(self.next_goal, self._planned):
            return
        changed = self.next_goal != self._planned
        v[changed] = 0.0
        if step_s > 0.0:
            v[changed] = (self.next_goal[changed] - self.goal[changed]) / step_s
        _limit(v, self._max_velocity, a)
        # Lead may have forced a jump: no faster than could still brake for the ends.
        np.subtract(self._high, self.next_goal, out=a)
        self._fastest_before(a)
        np.minimum(v, a, out=v)
        np.subtract(self.next_goal, self._low, out=b)
        self._fastest_before(b)
        np.negative(b, out=b)
        np.maximum(v, b, out=v)

    def _fastest_before(self, room: np.ndarray) -> None:
        """Turn what is left to an end into sqrt(2a room), in place."""
        np.maximum(room, 0.0, out=room)
        np.multiply(room, self._acceleration, out=room)
        np.multiply(room, 2.0, out=room)
        np.sqrt(room, out=room)

    def _explain_range(self, asked: np.ndarray, low: np.ndarray) -> Finding | None:
        joint = _worst(asked - self._target)
        if joint is None:
            return None
        above = asked[joint] > self._target[joint]
        limit = self._high[joint] if above else max(self._low[joint], low[joint])
        return self._clamped(Rule.RANGE, joint, asked[joint], limit)

    def _explain_motion(self, step_s: float) -> Finding | None:
        asked, done = self._asked_velocity, self._step_velocity
        joint = _worst((asked - done) * step_s)
        if joint is None:
            return None
        top = self._top_speed[joint]
        if abs(asked[joint]) > top + ROUNDING:
            return self._clamped(Rule.VELOCITY, joint, abs(asked[joint]), top)
        # What getting there in this step, and staying with the target, would have taken.
        target_velocity = 0.0
        if self._target_moves:
            target_velocity = (self._target[joint] - self._last_target[joint]) / step_s
        change = max(abs(asked[joint] - self._velocity[joint]), abs(asked[joint] - target_velocity))
        limit = self._acceleration[joint]
        return self._clamped(Rule.ACCELERATION, joint, max(change / step_s, limit), limit)

    def _explain_no_time(self) -> Finding | None:
        joint = _worst(self._target - self.goal)
        if joint is None:
            return None
        return self._clamped(Rule.VELOCITY, joint, math.inf, self._max_velocity[joint])

    def _explain_lead(self) -> Finding | None:
        """Look before speed: what the lead holds back falls behind, and seems to ask for haste."""
        joint = _worst(np.clip(self._planned, self.lowest, self.highest) - self._planned)
        if joint is None:
            return None
        lead = self._lead[joint]
        present = self.lowest[joint] + lead
        sign = math.copysign(1.0, self._planned[joint] - present)
        return self._clamped(Rule.LEAD, joint, self._target[joint] - present, sign * lead)

    def _clamped(self, rule: Rule, joint: int, value: float, limit: float) -> Finding:
        return Finding(
            Outcome.CLAMP, rule, self._names[joint], float(value), float(limit), self._units[joint]
        )


def _limit(values: np.ndarray, size: np.ndarray, scratch: np.ndarray) -> None:
    np.minimum(values, size, out=values)
    np.negative(size, out=scratch)
    np.maximum(values, scratch, out=values)


def _worst(cut: np.ndarray) -> int | None:
    """Return the joint that was cut the most, None when the difference is only rounding."""
    size = np.abs(cut)
    joint = int(np.argmax(size))
    return joint if size[joint] > ROUNDING else None
