"""What is settled before a policy call begins: the actions the arm executes until it is done.

A chunk is shown the world as it is now and takes over when its call has ended. Until then the arm
follows the old chunk, so the new one's first actions, counted from the observation, are known: they
are committed, and the policy is made to begin with them (`edge.inpainting`). How long the call will
take can only be foreseen from the last ones, and a model need not go on smoothly where it was made
to begin. Therefore the old chunk draws the actions after the committed ones too, with weights that
fall off as in the paper (Black, Galliker, Levine 2025), and the seam is blended (`edge.chunks`).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from edge.chunks import ChunkBuffer
from edge.profile import ArmProfile

CALLS_REMEMBERED = 10


@dataclass(frozen=True, slots=True)
class Commitment:
    """The first actions of the next chunk; action k is due k periods after the observation."""

    actions: np.ndarray  # (k, n_joints) float64, arm frame
    weights: np.ndarray  # (k,) 1 = held, then falling towards 0
    n_held: int


class Commitments:
    """Foresee how long a policy call takes, and commit to what the arm does meanwhile."""

    def __init__(self, chunks: ChunkBuffer, arm: ArmProfile) -> None:
        self._chunks = chunks
        self._action_hz = arm.action_hz
        self._hold = arm.real_time_chunking.hold_committed
        self._n_soft = round(arm.real_time_chunking.soft_tail_s * arm.action_hz)
        self._calls_s: deque[float] = deque(maxlen=CALLS_REMEMBERED)

    @property
    def foreseen_s(self) -> float:
        """How long the next call is expected to take; 0 before the first.

        The second longest of the last ones: a single outlier, such as the first call, which has no
        depth codes to draft from, would commit the arm for much longer than is needed.
        """
        longest = sorted(self._calls_s)[-2:]
        return longest[0] if longest else 0.0

    def note(self, call_s: float) -> None:
        """Remember how long a call took, from its inputs to its chunk."""
        self._calls_s.append(call_s)

    def at(self, observed_s: float, now_s: float) -> Commitment | None:
        """Commit for a call that starts now; None when the arm follows nothing by then."""
        if not self._hold:
            return None
        ready_after_s = max(0.0, now_s + self.foreseen_s - observed_s)
        n_held = int(ready_after_s * self._action_hz) + 2  # goals then lie between two actions
        actions = self._chunks.ahead(observed_s, n_held + self._n_soft)
        finite = np.isfinite(actions).all(axis=1)  # a broken chunk is for the safety gate
        actions = actions[: len(actions) if finite.all() else int(np.argmin(finite))]
        if not len(actions):
            return None
        n_held = min(n_held, len(actions))
        return Commitment(actions, _weights(n_held, len(actions)), n_held)


def _weights(n_held: int, n_actions: int) -> np.ndarray:
    left = np.arange(n_actions - n_held, 0, -1) / (n_actions - n_held + 1)
    return np.concatenate([np.ones(n_held), left * np.expm1(left) / math.expm1(1.0)])
