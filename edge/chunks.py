"""Turn action chunks that arrive late and irregularly into a goal for any moment.

Action k of a chunk is due at start + k / rate, and the chunk's start is when its observation was
made, so a chunk that took 0.4 s to predict begins with the action for 0.4 s later: the arm has
followed the previous chunk meanwhile. Time in which the arm had nothing to follow does not count,
because it stood still: on a machine slower than its chunks are long, each chunk starts at its
beginning instead of arriving used up.

Where a chunk takes over (the seam) it begins where the one before it is, and what lies between them
fades: nothing, when its first actions were held to what lay `ahead` (`edge.commitment`).

The policy thread puts, the control thread asks; they share one reference that is replaced whole,
and each reads with arrays of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Chunk:
    """Actions on the clock, and how they are led up to."""

    actions: np.ndarray  # (n_actions, n_joints) float64, arm frame
    start_s: float  # when action 0 is due
    end_s: float  # when the last action is over, or the observation too old to be followed
    seam_s: float  # when this chunk takes over
    gap: np.ndarray  # (n_joints,) from its goal to the one before, at the seam; it fades
    observed_s: float
    number: int


class ChunkBuffer:
    """Hold the newest chunk."""

    def __init__(
        self, n_joints: int, action_hz: float, blend_s: float, max_chunk_age_s: float
    ) -> None:
        self._n_joints = n_joints
        self._action_hz = action_hz
        self._blend_s = blend_s
        self._max_chunk_age_s = max_chunk_age_s
        self._chunk: Chunk | None = None
        self._control_reader = _Reader(n_joints, action_hz, blend_s)
        self._policy_reader = _Reader(n_joints, action_hz, blend_s)
        self.number_in_use = -1  # of the chunk that gave the last goal; -1 = none
        self.observed_s_in_use = math.nan  # when that chunk's observation was made

    def put(self, actions: np.ndarray, observed_s: float, now_s: float) -> Chunk:
        """Take (n_actions, n_joints) actions in the arm's frame, predicted from `observed_s`."""
        if actions.ndim != 2 or actions.shape[1] != self._n_joints or not len(actions):
            raise ValueError(
                f"chunk of shape {actions.shape}; (actions, {self._n_joints}) joints needed"
            )
        old = self._chunk
        driven_until_s = observed_s if old is None else min(old.end_s, now_s)
        start_s = now_s - max(0.0, driven_until_s - observed_s)
        played_out_s = start_s + len(actions) / self._action_hz
        chunk = Chunk(
            actions=np.array(actions, np.float64),
            start_s=start_s,
            end_s=min(played_out_s, observed_s + self._max_chunk_age_s),
            seam_s=now_s,
            gap=np.zeros(self._n_joints),
            observed_s=observed_s,
            number=0 if old is None else old.number + 1,
        )
        if old is not None and now_s < old.end_s:
            goal = self._policy_reader.goal_at(old, now_s).copy()
            if np.all(np.isfinite(goal)):  # else there is nothing to begin at
                np.subtract(goal, self._policy_reader.goal_at(chunk, now_s), out=chunk.gap)
        self._chunk = chunk
        return chunk

    def cut(self, now_s: float) -> None:
        """End the newest chunk now; only the thread that puts may ask."""
        chunk = self._chunk
        if chunk is not None and chunk.end_s > now_s:
            self._chunk = replace(chunk, end_s=now_s)

    def goal_at(self, t_s: float) -> np.ndarray | None:
        """Return the goal (n_joints,) for `t_s`, or None when the newest chunk is over by then.

        Between two actions the goal is interpolated; the last one stands for one action period.
        The array is the buffer's own and is overwritten by the next call.
        """
        chunk = self._chunk
        if chunk is None or t_s >= chunk.end_s:
            self.number_in_use = -1
            self.observed_s_in_use = math.nan
            return None
        self.number_in_use = chunk.number
        self.observed_s_in_use = chunk.observed_s
        return self._control_reader.goal_at(chunk, t_s)

    def ahead(self, from_s: float, n_actions: int) -> np.ndarray:
        """Return the goals for `from_s` + k / rate, (n, n_joints), as far as they are settled.

        At most `n_actions`, and no more than a chunk has. Read with the policy thread's arrays:
        only the thread that puts may ask.
        """
        chunk, goals = self._chunk, []
        for place in range(0 if chunk is None else min(n_actions, len(chunk.actions))):
            t_s = from_s + place / self._action_hz
            if t_s >= chunk.end_s:
                break
            goals.append(self._policy_reader.goal_at(chunk, t_s).copy())
        return np.array(goals).reshape(len(goals), self._n_joints)

    def remaining_s(self, t_s: float) -> float:
        """Return for how long the newest chunk still has actions, 0 when it has none."""
        chunk = self._chunk
        return 0.0 if chunk is None else max(0.0, chunk.end_s - t_s)


class _Reader:
    """Read chunks at any time without allocating; one per thread."""

    def __init__(self, n_joints: int, action_hz: float, blend_s: float) -> None:
        self._action_hz = action_hz
        self._blend_s = blend_s
        self._goal = np.zeros(n_joints)
        self._change = np.zeros(n_joints)

    def goal_at(self, chunk: Chunk, t_s: float) -> np.ndarray:
        """Return what a chunk asks for; before its first and after its last action, those."""
        last = len(chunk.actions) - 1
        place = min(max(0.0, (t_s - chunk.start_s) * self._action_hz), last)
        first = int(place)
        second = min(first + 1, last)
        np.subtract(chunk.actions[second], chunk.actions[first], out=self._change)
        np.multiply(self._change, place - first, out=self._change)
        np.add(chunk.actions[first], self._change, out=self._goal)
        since_seam_s = t_s - chunk.seam_s
        if since_seam_s < self._blend_s:
            left = 1.0 if since_seam_s <= 0.0 else 1.0 - since_seam_s / self._blend_s
            np.multiply(chunk.gap, left, out=self._change)
            np.add(self._goal, self._change, out=self._goal)
        return self._goal
