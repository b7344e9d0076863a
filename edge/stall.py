"""Notice a joint that pushes against something, and end the pushing.

Blocked is: current above its limit, position error above its limit, hardly any motion, all at once
and for a time; single peaks of current come with every start. A closing gripper that is blocked has
met what it was sent for: it keeps a small squeeze instead of the full goal until it is told to
open. Any other joint holds the arm, and stops it when the policy goes on pushing.
"""

from __future__ import annotations

import math

import numpy as np

from edge.arm_profile import ArmProfile
from edge.joints import JointReading
from edge.verdict import NOTHING, Finding, Outcome, Rule

# A gripped thing that gives way by this share of the squeeze is gone: the gripper may close again.
GAVE_WAY = 0.5


class StallWatch:
    """Follow each joint's contact from measurement to measurement."""

    def __init__(self, arm: ArmProfile) -> None:
        n_joints = len(arm.joints)
        self._joints = arm.joints
        self._times = arm.stall
        self._grippers = [number for number, joint in enumerate(arm.joints) if joint.is_gripper]
        self._max_current_ma = np.array([joint.stall_current_ma for joint in arm.joints])
        self._strong = np.zeros(n_joints, bool)
        self._current_ma = np.zeros(n_joints)
        self._since_s = [math.nan] * n_joints  # when current, error and standstill came together
        self._contact = [math.nan] * n_joints  # where the joint is blocked, nan = it is not
        self._direction = [0.0] * n_joints
        self._stalled_s = [math.nan] * n_joints  # when the pushing began
        self._stalled_ma = [0.0] * n_joints
        self._all_free = True
        self.low = np.full(n_joints, -math.inf)  # no goal below this: the squeeze of a full gripper
        self.finding = NOTHING

    def observe(self, reading: JointReading, last_goal: np.ndarray) -> None:
        """Judge a measurement that was not seen before, made while `last_goal` was commanded."""
        np.absolute(reading.currents_ma, out=self._current_ma)
        np.greater(self._current_ma, self._max_current_ma, out=self._strong)
        if self._all_free and not self._strong.any():
            return
        self._all_free = True
        for number, joint in enumerate(self._joints):
            present = float(reading.positions[number])
            error = float(last_goal[number]) - present
            pushes = (
                bool(self._strong[number])
                and abs(error) > joint.stall_error
                and abs(reading.velocities[number]) < joint.stall_velocity
            )
            if not pushes:
                self._since_s[number] = math.nan
            else:
                if math.isnan(self._since_s[number]):
                    self._since_s[number] = reading.t_s
                if (
                    math.isnan(self._contact[number])
                    and reading.t_s - self._since_s[number] > self._times.after_s
                ):
                    self._contact[number] = present
                    self._direction[number] = math.copysign(1.0, error)
                    self._stalled_s[number] = self._since_s[number]
                    self._stalled_ma[number] = float(self._current_ma[number])
            self._release_if_gone(number, present)
            if pushes or not math.isnan(self._contact[number]):
                self._all_free = False

    def judge(self, asked: np.ndarray | None, now_s: float) -> Finding:
        """Say what the contacts mean for a goal; sets `low`. `asked` None: nothing is asked."""
        if self._all_free:
            return NOTHING
        worst = NOTHING
        for number, contact in enumerate(self._contact):
            if math.isnan(contact):
                continue
            direction = self._direction[number]
            if asked is None:
                if number not in self._grippers:
                    self._release(number)
                continue
            beyond = (float(asked[number]) - contact) * direction
            if number in self._grippers and direction < 0.0:
                if beyond <= 0.0:  # it is told to open
                    self._release(number)
                    continue
                self.low[number] = contact - self._times.squeeze_percent
                if asked[number] < self.low[number] and worst.outcome < Outcome.CLAMP:
                    worst = self._found(Outcome.CLAMP, number, "; holds with a small squeeze")
            elif beyond <= self._joints[number].stall_error:
                self._release(number)
            elif now_s - self._stalled_s[number] > self._times.stop_s:
                worst = self._found(
                    Outcome.STOP, number, f" and pushed on for {self._times.stop_s:g} s"
                )
            elif worst.outcome < Outcome.HOLD:
                worst = self._found(Outcome.HOLD, number, "")
        return worst

    def latch(self, latched: np.ndarray, last_goal: np.ndarray) -> None:
        """Let what a gripper holds not fall when the arm is held: keep a squeeze it had."""
        squeeze = self._times.squeeze_percent
        for number in self._grippers:
            pressed = max(float(last_goal[number]), float(latched[number]) - squeeze)
            latched[number] = min(pressed, float(latched[number]))

    def _release_if_gone(self, number: int, present: float) -> None:
        contact = self._contact[number]
        if math.isnan(contact) or number not in self._grippers:
            return
        if contact - present > GAVE_WAY * self._times.squeeze_percent:
            self._release(number)

    def _release(self, number: int) -> None:
        self._contact[number] = math.nan
        self._since_s[number] = math.nan
        self.low[number] = -math.inf

    def _found(self, outcome: Outcome, number: int, part: str) -> Finding:
        joint = self._joints[number]
        return Finding(
            outcome,
            Rule.STALL,
            joint.name,
            self._stalled_ma[number],
            joint.stall_current_ma,
            part=part,
        )
