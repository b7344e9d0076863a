import dataclasses

import numpy as np
import pytest

from edge.arm_profile import RealTimeChunking
from edge.chunks import ChunkBuffer
from edge.commitment import CALLS_REMEMBERED, Commitments
from edge.profile import load_profile

ARM = load_profile("sim").arm
TICK_S = 0.01


class Rig:
    """A policy that answers each call with a chunk, on a clock that only calls move."""

    def __init__(self, action_hz=10.0, soft_tail_s=0.5, blend_s=0.0, hold=True):
        chunking = RealTimeChunking(hold_committed=hold, soft_tail_s=soft_tail_s)
        arm = dataclasses.replace(ARM, action_hz=action_hz, real_time_chunking=chunking)
        self.hz = action_hz
        self.chunks = ChunkBuffer(1, action_hz, blend_s, 10.0)
        self.commitments = Commitments(self.chunks, arm)

    def put(self, start, observed_s=0.0, now_s=0.0, n_actions=20, step=1.0):
        self.chunks.put(start + step * np.arange(n_actions)[:, None], observed_s, now_s)


def test_first_committed_action_is_the_one_due_when_the_observation_was_made():
    rig = Rig()
    rig.put(0.0)
    for observed_s, first in [(0.5, 5.0), (0.57, 5.7)]:
        actions = rig.commitments.at(observed_s, observed_s).actions
        np.testing.assert_allclose(actions[:3, 0], first + np.arange(3))


@pytest.mark.parametrize("action_hz", [10.0, 30.0])
@pytest.mark.parametrize("call_s", [0.0, 0.25, 0.4])
def test_actions_are_held_until_the_call_is_ready_and_not_longer(action_hz, call_s):
    rig = Rig(action_hz)
    rig.put(0.0, n_actions=int(2 * action_hz))
    rig.commitments.note(call_s)
    commitment = rig.commitments.at(0.5, 0.52)
    assert rig.commitments.foreseen_s == call_s
    held_until_s = 0.5 + (commitment.n_held - 1) / action_hz
    ready_s = 0.52 + call_s
    assert ready_s <= held_until_s <= ready_s + 1.001 / action_hz
    assert len(commitment.actions) == commitment.n_held + round(0.5 * action_hz)


def test_weights_hold_then_fall_to_nothing_ever_slower():
    rig = Rig(action_hz=10.0)
    rig.put(0.0)
    commitment = rig.commitments.at(0.0, 0.1)
    weights = commitment.weights
    assert weights.shape == (len(commitment.actions),)
    np.testing.assert_array_equal(weights[: commitment.n_held], 1.0)
    tail = np.concatenate([[1.0], weights[commitment.n_held :], [0.0]])
    assert np.all(np.diff(tail) < 0)
    assert np.all(np.diff(tail, 2) > 0)


def test_what_the_old_chunk_no_longer_covers_is_free():
    rig = Rig()
    rig.put(0.0, n_actions=10)
    rig.commitments.note(0.12)
    commitment = rig.commitments.at(0.7, 0.7)
    assert (len(commitment.actions), commitment.n_held) == (3, 3)
    rig.commitments.note(5.0)
    rig.commitments.note(5.0)
    assert rig.commitments.at(0.8, 0.8).n_held == 2


def test_nothing_is_committed_before_the_first_chunk_after_the_last_or_when_switched_off():
    rig = Rig()
    assert rig.commitments.at(0.0, 0.0) is None
    rig.put(0.0, n_actions=10)
    assert rig.commitments.at(1.0, 1.0) is None
    off = Rig(hold=False)
    off.put(0.0)
    assert off.commitments.at(0.5, 0.5) is None


def test_broken_actions_are_not_committed():
    rig = Rig()
    actions = np.arange(20.0)[:, None]
    actions[8:] = np.nan
    rig.chunks.put(actions, 0.0, 0.0)
    commitment = rig.commitments.at(0.5, 0.5)
    np.testing.assert_allclose(commitment.actions[:, 0], [5, 6])
    assert len(commitment.weights) == 2
    assert rig.commitments.at(0.8, 0.8) is None


def test_one_slow_call_does_not_count_but_two_do_until_they_are_long_ago():
    commitments = Rig().commitments
    assert commitments.foreseen_s == 0.0
    for call_s, foreseen_s in [(3.0, 3.0), (0.2, 0.2), (0.3, 0.3), (2.0, 2.0), (0.2, 2.0)]:
        commitments.note(call_s)
        assert commitments.foreseen_s == foreseen_s
    for _ in range(CALLS_REMEMBERED):
        commitments.note(0.1)
    assert commitments.foreseen_s == 0.1


def answer(commitment, level, n_actions=60):
    """What a flow that is sure of `level` returns when it is held."""
    chunk = np.full((n_actions, 1), level)
    if commitment is not None:
        n, weights = len(commitment.actions), commitment.weights[:, None]
        chunk[:n] = weights * commitment.actions + (1 - weights) * chunk[:n]
    return chunk


def goals_across_a_seam(rig, call_s):
    """Follow a still chunk, and one that wants to be 10 away and took `call_s`."""
    rig.put(0.0, n_actions=60, step=0.0)
    goals = []
    for tick in range(200):
        t_s = tick * TICK_S
        if tick == 50:
            commitment = rig.commitments.at(t_s, t_s)
            ready_s = t_s + call_s
        if tick >= 50 and ready_s is not None and t_s >= ready_s:
            rig.chunks.put(answer(commitment, 10.0), 0.5, t_s)
            ready_s = None
        goals.append(rig.chunks.goal_at(t_s)[0])
    return np.array(goals)


def fastest(goals):
    return np.abs(np.diff(goals)).max() / TICK_S


@pytest.mark.parametrize("blend_s", [0.0, 0.1])
def test_policy_that_jumps_makes_a_slower_seam_when_its_chunk_is_held(blend_s):
    free, held = Rig(30.0, 0.3, blend_s, hold=False), Rig(30.0, 0.3, blend_s)
    for rig in (free, held):
        rig.commitments.note(0.2)
    slow, fast = fastest(goals_across_a_seam(held, 0.2)), fastest(goals_across_a_seam(free, 0.2))
    # 10 within a soft tail of 9 actions: the steepest weight step is 0.29 of it in 1/30 s.
    assert slow <= 0.3 * 10 * 30.0
    assert fast >= (10 / TICK_S if blend_s == 0.0 else 10 / blend_s) * 0.99


def test_held_chunk_changes_nothing_until_the_moment_it_was_foreseen_to_be_ready():
    rig = Rig(30.0, 0.3)
    rig.commitments.note(0.2)
    goals = goals_across_a_seam(rig, 0.1)  # it came earlier
    np.testing.assert_allclose(goals[: 50 + 20], 0.0, atol=1e-9)
    assert goals[-1] == pytest.approx(10.0)


def test_call_that_takes_longer_than_foreseen_still_meets_the_old_chunk():
    rig = Rig(30.0, 0.3, blend_s=0.1)
    rig.commitments.note(0.1)
    goals = goals_across_a_seam(rig, 0.35)
    assert goals[84] == 0.0  # nothing came yet
    assert fastest(goals) <= 10 / 0.1 * 1.1  # blending bounds it, while the chunk moves on
    assert goals[-1] == pytest.approx(10.0)
