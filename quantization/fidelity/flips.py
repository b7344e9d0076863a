"""Whether two chunks open and close the gripper alike: a cube is dropped or missed by one flip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE_S = 0.2  # by which the same flip may come sooner or later

Flip = tuple[int, int, bool]  # action of the chunk, gripper, opens


@dataclass(frozen=True, slots=True)
class FlipAgreement:
    """How alike grippers moved in a number of chunks."""

    sides_equal: float  # share of actions in which each gripper is as open or as closed
    flips: int  # of the one
    flips_against: int  # of the other
    matched: int  # the same way, at the same time
    agreement: float | None  # share of all flips that have their match, None when there was none


def flip_agreement(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], action_hz: float
) -> FlipAgreement:
    """Compare chunk by chunk; each (n, grippers) bool, open or closed, at `action_hz`."""
    equal, counts, matched = [], [0, 0], 0
    for one, other in zip(ours, theirs, strict=True):
        equal.append(np.mean(one == other))
        flips, against = _flips(one), _flips(other)
        counts[0] += len(flips)
        counts[1] += len(against)
        matched += _matches(flips, against, TOLERANCE_S * action_hz)
    agreement = 2 * matched / sum(counts) if sum(counts) else None
    return FlipAgreement(float(np.mean(equal)), *counts, matched, agreement)


def _flips(opened: np.ndarray) -> list[Flip]:
    steps, grippers = np.nonzero(opened[1:] != opened[:-1])
    return [
        (int(step) + 1, int(gripper), bool(opened[step + 1, gripper]))
        for step, gripper in zip(steps, grippers, strict=True)
    ]


def _matches(flips: list[Flip], against: list[Flip], tolerance: float) -> int:
    """Count pairs of flips of one gripper the same way, each flip in one pair at most."""
    left, matched = list(against), 0
    for step, gripper, opens in flips:
        near = [
            flip
            for flip in left
            if flip[1:] == (gripper, opens) and abs(flip[0] - step) <= tolerance
        ]
        if near:
            left.remove(min(near, key=lambda flip: abs(flip[0] - step)))
            matched += 1
    return matched
