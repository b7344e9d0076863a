"""A policy that wants anything, and cameras that may die: what surrounds the loop in a campaign."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from edge.chunks import ChunkBuffer
from edge.policy_thread import PolicyCall
from edge.profile import ArmProfile

# What a goal must never do to an arm, whatever a policy says.
MAD = ("jump", "nan", "inf", "huge", "shiver", "nothing")
PICTURE_AGE_S = 0.03


class RandomPolicy:
    """Puts random chunks into the buffer; a share of `mad` of them no arm could follow."""

    def __init__(
        self, arm: ArmProfile, chunks: ChunkBuffer, dice: random.Random, mad: float
    ) -> None:
        self.trouble: str | None = None
        self.fault: str | None = None
        self.calls: Sequence[PolicyCall] = ()
        self.silent_until_s = 0.0
        self.asked_for: dict[str, int] = dict.fromkeys(("way", *MAD), 0)
        self._chunks = chunks
        self._action_hz = arm.action_hz
        self._low = np.array([joint.min_position for joint in arm.joints])
        self._high = np.array([joint.max_position for joint in arm.joints])
        self._speed = np.array([joint.max_velocity for joint in arm.joints])
        self._dice = dice
        self._numbers = np.random.default_rng(dice.getrandbits(64))
        self._mad = mad
        self._next_s = 0.0

    def observe(self, positions: np.ndarray, t_s: float) -> None:
        """Put the next chunk when its time has come."""
        if t_s < max(self._next_s, self.silent_until_s):
            return
        mad = self._dice.random() < self._mad
        what = self._dice.choice(MAD) if mad else "way"
        self.asked_for[what] += 1
        actions = self._way(positions)
        self._next_s = t_s + self._dice.uniform(0.3, 1.1) * len(actions) / self._action_hz
        if what != "nothing":
            self._chunks.put(self._maddened(what, actions), t_s, t_s)

    def _way(self, positions: np.ndarray) -> np.ndarray:
        """Return a way to somewhere in reach and a little beyond, slow or too fast."""
        n_actions = self._dice.randint(6, 40)
        target = self._numbers.uniform(self._low - 10.0, self._high + 10.0)
        pace = self._speed * self._dice.uniform(0.05, 1.5)
        step = np.clip(target - positions, -pace / self._action_hz, pace / self._action_hz)
        way = positions + step * np.arange(n_actions)[:, None]
        return np.where(step > 0, np.minimum(way, target), np.maximum(way, target))

    def _maddened(self, what: str, actions: np.ndarray) -> np.ndarray:
        numbers, shape = self._numbers, actions.shape
        if what == "way":
            return actions
        if what == "jump":
            return actions + numbers.uniform(-400.0, 400.0, shape[1])
        if what == "shiver":
            return numbers.uniform(self._low, self._high, shape)
        value = {"nan": np.nan, "inf": self._dice.choice((np.inf, -np.inf)), "huge": 1e300}[what]
        struck = numbers.random(shape) < self._dice.choice((0.03, 0.3, 1.0))
        return np.where(struck, value, actions)


class RandomCamera:
    """Took a picture a moment ago, unless it died."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.died_s: float | None = None

    def newest_s(self) -> float:
        """Return when the newest picture was taken."""
        return self._clock() - PICTURE_AGE_S if self.died_s is None else self.died_s
