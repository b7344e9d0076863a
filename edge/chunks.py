"""Turn action chunks that arrive late and irregularly into a goal for any moment.

Action k of a chunk is due at start + k / rate, and the chunk's start is when its observation was
made, so a chunk that took 0.4 s to predict begins with the action for 0.4 s later: the arm has
followed the previous chunk meanwhile. Time in which the arm had nothing to follow does not count,
because it stood still: on a machine slower than its chunks are long, each chunk starts at its
beginning instead of arriving used up.

The policy thread puts, the control thread asks; they share one reference that is replaced whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Chunk:
    """Actions on the clock, and the chunk they replace."""

    actions: np.ndarray  # (n_actions, n_joints) float64, arm frame
    start_s: float  # when action 0 is due
    seam_s: float  # when this chunk takes over
    observed_s: float
    number: int
    previous: Chunk | None


class ChunkBuffer:
    """Hold the newest chunk, and the one before it for as long as the seam is blended."""

    def __init__(
        self, n_joints: int, action_hz: float, blend_s: float, max_chunk_age_s: float
    ) -> None:
        self._n_joints = n_joints
        self._action_hz = action_hz
        self._blend_s = blend_s
        self._max_chunk_age_s = max_chunk_age_s
        self._chunk: Chunk | None = None
        self._goal = np.zeros(n_joints)
        self._other = np.zeros(n_joints)
        self._next = np.zeros(n_joints)
        self.number_in_use = -1  # of the chunk that gave the last goal; -1 = none
        self.observed_s_in_use = math.nan  # when that chunk's observation was made

    def put(self, actions: np.ndarray, observed_s: float, now_s: float) -> Chunk:
        """Take (n_actions, n_joints) actions in the arm's frame, predicted from `observed_s`."""
        if actions.ndim != 2 or actions.shape[1] != self._n_joints or not len(actions):
            raise ValueError(
                f"chunk of shape {actions.shape}; (actions, {self._n_joints}) joints needed"
            )
        old = self._chunk
        driven_until_s = observed_s if old is None else min(self._end_s(old), now_s)
        moved_s = max(0.0, driven_until_s - observed_s)
        chunk = Chunk(
            actions=np.array(actions, np.float64),
            start_s=now_s - moved_s,
            seam_s=now_s,
            observed_s=observed_s,
            number=0 if old is None else old.number + 1,
            previous=None if old is None else _without_previous(old),
        )
        self._chunk = chunk
        return chunk

    def goal_at(self, t_s: float) -> np.ndarray | None:
        """Return the goal (n_joints,) for `t_s`, or None when no chunk covers that time.

        Between two actions the goal is interpolated; the last one stands for one action period.
        The array is the buffer's own and is overwritten by the next call.
        """
        chunk = self._chunk
        self.number_in_use = -1
        self.observed_s_in_use = math.nan
        if chunk is None or t_s - chunk.observed_s > self._max_chunk_age_s:
            return None
        if not self._sample(chunk, t_s, self._goal):
            return None
        self.number_in_use = chunk.number
        self.observed_s_in_use = chunk.observed_s
        since_seam_s = t_s - chunk.seam_s
        old = chunk.previous
        at_seam = old is not None and 0.0 <= since_seam_s < self._blend_s
        if at_seam and self._sample(old, t_s, self._other):
            weight = since_seam_s / self._blend_s
            np.subtract(self._goal, self._other, out=self._goal)
            np.multiply(self._goal, weight, out=self._goal)
            np.add(self._goal, self._other, out=self._goal)
        return self._goal

    def remaining_s(self, t_s: float) -> float:
        """Return for how long the newest chunk still has actions, 0 when it has none."""
        chunk = self._chunk
        return 0.0 if chunk is None else max(0.0, self._end_s(chunk) - t_s)

    def _end_s(self, chunk: Chunk) -> float:
        played_out_s = chunk.start_s + len(chunk.actions) / self._action_hz
        return min(played_out_s, chunk.observed_s + self._max_chunk_age_s)

    def _sample(self, chunk: Chunk, t_s: float, out: np.ndarray) -> bool:
        place = (t_s - chunk.start_s) * self._action_hz
        if not 0.0 <= place < len(chunk.actions):
            return False
        first = int(place)
        second = min(first + 1, len(chunk.actions) - 1)
        np.subtract(chunk.actions[second], chunk.actions[first], out=self._next)
        np.multiply(self._next, place - first, out=self._next)
        np.add(chunk.actions[first], self._next, out=out)
        return True


def _without_previous(chunk: Chunk) -> Chunk:
    return Chunk(chunk.actions, chunk.start_s, chunk.seam_s, chunk.observed_s, chunk.number, None)
