"""Keep the commanded pose off the table, off the arm's own body and off its neighbour.

A goal that would bring something nearer than its limit is not followed: the joints that bring it
nearer stay where they were last sent, the others go on. A pose that is too near already, because
the arm was switched on there or pushed there, may move anywhere but nearer.
"""

from __future__ import annotations

import numpy as np

from edge.arm_profile import ArmProfile
from edge.clearance import Clearances
from edge.verdict import Finding, Outcome, Rule

ROUNDING_M = 1e-9
MM_PER_M = 1e3


class Workspace:
    """Judge goals by forward kinematics; remembers the clearances of the last one."""

    def __init__(self, arm: ArmProfile) -> None:
        if arm.workspace is None:
            raise ValueError(f"arm profile {arm.name} states no workspace")
        self._names = [joint.name for joint in arm.joints]
        n_joints = len(arm.joints)
        self._one = Clearances(arm.arms, arm.workspace, 1)
        self._each = Clearances(arm.arms, arm.workspace, n_joints)  # a joint moved at a time
        self._limits_m = self._one.limits_m
        n_checks = len(self._limits_m)
        self._last_m = np.zeros(n_checks)
        self._is_known = False
        self._asked_m, self._allowed_m = np.zeros(n_checks), np.zeros(n_checks)
        self._fine = np.zeros(n_checks, bool)
        self._pose = np.zeros((1, n_joints))
        self._poses = np.zeros((n_joints, n_joints))
        self._held = np.zeros(n_joints)

    def forget(self) -> None:
        """Note that the last goal was set otherwise."""
        self._is_known = False

    def follow(
        self,
        goal: np.ndarray,
        last_goal: np.ndarray,
        present: np.ndarray,
        lowest: np.ndarray,
        highest: np.ndarray,
    ) -> Finding | None:
        """Change `goal` (n_joints,) in place where it comes too near; say so.

        It stays within `lowest` and `highest`, what the lead over `present` allows.
        """
        measured_m = self._measure(goal)
        if self._keeps(measured_m, self._limits_m):
            self._remember(measured_m)
            return None
        np.copyto(self._asked_m, measured_m)
        if not self._is_known:
            self._remember(self._measure(last_goal))
        np.subtract(self._last_m, ROUNDING_M, out=self._allowed_m)
        np.minimum(self._limits_m, self._allowed_m, out=self._allowed_m)
        if self._keeps(self._asked_m, self._allowed_m):
            self._remember(self._asked_m)
            return None
        return self._keep_out(goal, last_goal, present, lowest, highest)

    def _keep_out(
        self,
        goal: np.ndarray,
        last_goal: np.ndarray,
        present: np.ndarray,
        lowest: np.ndarray,
        highest: np.ndarray,
    ) -> Finding:
        """Let fewer and fewer joints move; where even none will do, follow the arm."""
        worst = int(np.argmin(self._asked_m - self._allowed_m))
        held, held_m = self._held, self._last_m.copy()
        np.maximum(last_goal, lowest, out=held)
        np.minimum(held, highest, out=held)
        if not np.array_equal(held, last_goal):
            held_m = self._measure(held).copy()
        np.copyto(self._poses, held)
        np.fill_diagonal(self._poses, goal)
        change_m = self._each.measure(self._poses) - held_m
        nearer = (change_m < -ROUNDING_M) & (self._asked_m < self._allowed_m)
        finding = self._finding(int(np.argmin(change_m[:, worst])), worst)
        np.copyto(goal, held, where=nearer.any(axis=1))
        measured_m = self._measure(goal)
        if not self._keeps(measured_m, self._allowed_m):
            np.copyto(goal, held)
            measured_m = held_m
            if not self._keeps(held_m, self._allowed_m):
                # The arm was pushed away so far that its lead drags the goal along.
                present_m = self._measure(present)
                if not self._keeps(held_m, np.minimum(present_m, self._limits_m)):
                    np.copyto(goal, present)
                    measured_m = present_m
        self._remember(measured_m)
        return finding

    def _finding(self, joint: int, worst: int) -> Finding:
        check = self._one.checks[worst]
        return Finding(
            Outcome.CLAMP,
            Rule.TABLE if check.over_table else Rule.COLLISION,
            self._names[joint],
            float(self._asked_m[worst]) * MM_PER_M,
            check.limit_m * MM_PER_M,
            part=check.text,
        )

    def _measure(self, goal: np.ndarray) -> np.ndarray:
        """Return the clearances (n_checks,) of one pose; overwritten by the next call."""
        np.copyto(self._pose[0], goal)
        return self._one.measure(self._pose)[0]

    def _keeps(self, measured_m: np.ndarray, least_m: np.ndarray) -> bool:
        np.greater_equal(measured_m, least_m, out=self._fine)
        return bool(self._fine.all())

    def _remember(self, measured_m: np.ndarray) -> None:
        np.copyto(self._last_m, measured_m)
        self._is_known = True
