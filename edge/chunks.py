"""Turn action chunks that arrive late and irregularly into a goal for any moment.

Action k of a chunk is due at start + k / rate, and the chunk's start is when its observation was
made, so a chunk that took 0.4 s to predict begins with the action for 0.4 s later: the arm has
followed the previous chunk meanwhile. Time in which the arm had nothing to follow does not count,
because it stood still: on a machine slower than its chunks are long, each chunk starts at its
beginning instead of arriving used up.

Where a chunk takes over (the seam) the one before it fades out, unless both ask for the same there,
as they do when the new one's first actions were held to what lay `ahead` (`edge.commitment`).

The policy thread puts, the control thread asks; they share one reference that is replaced whole,
and each reads with arrays of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

# Chunks that differ by less at their seam, in degrees or percent, need no fading: a servo's step is
# 0.09 degrees.
SAME_GOAL = 0.01


@dataclass(frozen=True, slots=True)
class Chunk:
    """Actions on the clock, and the chunks that fade out under them."""

    actions: np.ndarray  # (n_actions, n_joints) float64, arm frame
    start_s: float  # when action 0 is due
    end_s: float  # when the last action is over, or the observation too old to be followed
    seam_s: float  # when this chunk takes over
    observed_s: float
    number: int
    fading: tuple[Chunk, ...] = ()  # oldest first; several when chunks come faster than they fade


class ChunkBuffer:
    """Hold the newest chunk, and those before it for as long as they fade out."""

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
            observed_s=observed_s,
            number=0 if old is None else old.number + 1,
        )
        if old is not None and now_s < old.end_s:
            chunk = self._over(old, chunk)
        self._chunk = chunk
        return chunk

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

    def _over(self, old: Chunk, chunk: Chunk) -> Chunk:
        """Let the chunk that the arm follows, and what fades out under it, fade out under `chunk`.

        One that agrees with it at the seam takes over at once, and so does one after a broken goal.
        """
        goal = self._policy_reader.goal_at(old, chunk.seam_s).copy()
        difference = np.abs(self._policy_reader.goal_at(chunk, chunk.seam_s) - goal)
        if np.all(difference <= SAME_GOAL) or not np.all(np.isfinite(goal)):
            return chunk
        chunks = (*old.fading, replace(old, fading=()))
        gone = sum(chunk.seam_s >= newer.seam_s + self._blend_s for newer in chunks[1:])
        return replace(chunk, fading=chunks[gone:])


class _Reader:
    """Read chunks at any time without allocating; one per thread."""

    def __init__(self, n_joints: int, action_hz: float, blend_s: float) -> None:
        self._action_hz = action_hz
        self._blend_s = blend_s
        self._goal = np.zeros(n_joints)
        self._sampled = np.zeros(n_joints)
        self._difference = np.zeros(n_joints)

    def goal_at(self, chunk: Chunk, t_s: float) -> np.ndarray:
        """Return what a chunk and those under it ask for; before and after its time, its ends."""
        if not chunk.fading:
            return self._sample(chunk, t_s, self._goal)
        self._sample(chunk.fading[0], t_s, self._goal)
        for newer in chunk.fading[1:]:
            self._lay_over(newer, t_s)
        self._lay_over(chunk, t_s)
        return self._goal

    def _lay_over(self, chunk: Chunk, t_s: float) -> None:
        """Move the goal towards what this chunk asks for, as far as its seam is past."""
        since_seam_s = t_s - chunk.seam_s
        if since_seam_s >= self._blend_s:
            self._sample(chunk, t_s, self._goal)
        elif since_seam_s > 0.0:
            self._sample(chunk, t_s, self._sampled)
            np.subtract(self._sampled, self._goal, out=self._difference)
            np.multiply(self._difference, since_seam_s / self._blend_s, out=self._difference)
            np.add(self._goal, self._difference, out=self._goal)

    def _sample(self, chunk: Chunk, t_s: float, out: np.ndarray) -> np.ndarray:
        last = len(chunk.actions) - 1
        place = min(max(0.0, (t_s - chunk.start_s) * self._action_hz), last)
        first = min(int(place), last)
        second = min(first + 1, last)
        np.subtract(chunk.actions[second], chunk.actions[first], out=self._difference)
        np.multiply(self._difference, place - first, out=self._difference)
        return np.add(chunk.actions[first], self._difference, out=out)
