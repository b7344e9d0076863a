"""Record every control tick into arrays made before the loop starts.

Nothing is printed, written to a file or grown in the tick. When the
arrays are full the oldest ticks are overwritten; the counters go on.
"""

from __future__ import annotations

import numpy as np

from edge.safety import Outcome, Rule, Verdict

COLUMNS_S = ("t_s", "late_s", "read_s", "decide_s", "write_s", "tick_s")


class TickLog:
    """Columns of one row per tick, and counts over all ticks."""

    def __init__(self, capacity: int, joint_names: tuple[str, ...]) -> None:
        self.capacity = capacity
        self.joint_names = joint_names
        n_joints = len(joint_names)
        self._times = {name: np.full(capacity, np.nan) for name in COLUMNS_S}
        self._present = np.full((capacity, n_joints), np.nan)
        self._asked = np.full((capacity, n_joints), np.nan)
        self._written = np.full((capacity, n_joints), np.nan)
        self._outcome = np.zeros(capacity, np.int8)
        self._rule = np.zeros(capacity, np.int8)
        self._joint = np.full(capacity, -1, np.int8)
        self._chunk = np.full(capacity, -1, np.int32)
        self._joint_index = {name: index for index, name in enumerate(joint_names)}
        self.n_ticks = 0
        self.missed_ticks = 0
        self.read_errors = 0
        self.write_errors = 0
        self.outcome_counts = np.zeros(len(Outcome), np.int64)
        self.clamp_counts = np.zeros((len(Rule), n_joints), np.int64)
        self.reason_counts: dict[str, int] = {}  # of holds and stops, which are rare

    def add(
        self,
        times_s: tuple[float, float, float, float, float, float],
        present: np.ndarray,
        asked: np.ndarray | None,
        verdict: Verdict,
        chunk: int,
    ) -> None:
        """Write one row: times as in COLUMNS_S, positions (n_joints,), the chunk followed or -1."""
        row = self.n_ticks % self.capacity
        for name, value in zip(COLUMNS_S, times_s, strict=True):
            self._times[name][row] = value
        self._present[row] = present
        self._asked[row] = np.nan if asked is None else asked
        self._written[row] = np.nan if verdict.goal is None else verdict.goal
        joint = self._joint_index.get(verdict.joint, -1)
        self._outcome[row] = verdict.outcome
        self._rule[row] = verdict.rule
        self._joint[row] = joint
        self._chunk[row] = chunk
        self.n_ticks += 1
        self.outcome_counts[verdict.outcome] += 1
        if verdict.outcome is Outcome.CLAMP:
            self.clamp_counts[verdict.rule, joint] += 1
        elif verdict.outcome is not Outcome.PASS:
            kind = verdict.rule.name.lower()
            self.reason_counts[kind] = self.reason_counts.get(kind, 0) + 1

    def columns(self) -> dict[str, np.ndarray]:
        """Return the recorded ticks, oldest first, as copies."""
        kept = min(self.n_ticks, self.capacity)
        rows = np.arange(self.n_ticks - kept, self.n_ticks) % self.capacity
        columns = {name: values[rows] for name, values in self._times.items()}
        columns.update(
            present=self._present[rows],
            asked=self._asked[rows],
            written=self._written[rows],
            outcome=self._outcome[rows],
            rule=self._rule[rows],
            joint=self._joint[rows],
            chunk=self._chunk[rows],
        )
        return columns
