"""Intervals and tests on shares, flips of grippers, seams: against scipy and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest

from quantization.fidelity.episode_seams import episode_seams
from quantization.fidelity.flips import flip_agreement
from quantization.fidelity.shares import paired_difference, share_of


@pytest.mark.parametrize(("count", "trials"), [(0, 1), (1, 1), (0, 100), (95, 100), (100, 100)])
def test_a_share_has_the_interval_of_wilson(count, trials):
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.binomtest(count, trials).proportion_ci(method="wilson")
    share = share_of(count, trials)
    assert (share.low, share.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert share.low <= share.share == count / trials <= share.high


def pairs(both, only_first, only_second, neither):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland, Lydersen, Laake, Statist. Med. 33, 2014
        ((59, 6, 16, 80), -0.119, -0.005),  # the same, second example
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman et al., Statistics with Confidence, 2000, p. 52
        ((36, 12, 2, 0), 0.057, 0.340),  # Newcombe, Statist. Med. 17, 1998
    ],
)
def test_a_paired_difference_has_the_interval_of_newcombe(table, low, high):
    found = paired_difference(*pairs(*table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)
    mirrored = paired_difference(*reversed(pairs(*table)))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_the_test_of_a_paired_difference_is_that_of_mcnemar():
    stats = pytest.importorskip("scipy.stats")
    for only_first, only_second in [(0, 0), (5, 0), (12, 2), (7, 7), (60, 40)]:
        found = paired_difference(*pairs(3, only_first, only_second, 4))
        tosses = only_first + only_second
        wanted = stats.binomtest(only_first, tosses).pvalue if tosses else 1.0
        assert found.p_value == pytest.approx(wanted)


def test_no_difference_in_few_trials_is_no_certainty():
    few = paired_difference(*pairs(5, 0, 0, 0))
    many = paired_difference(*pairs(500, 0, 0, 0))
    assert few.difference == many.difference == 0
    assert few.low < -0.3
    assert -0.02 < many.low < 0 < many.high < 0.02


def test_intervals_hold_what_they_promise():
    random, held = np.random.default_rng(0), 0
    for _ in range(400):  # 0.9 and 0.85, and the two go together
        first = random.random(100) < 0.9
        second = np.where(random.random(100) < 0.7, first, random.random(100) < 0.74)
        found = paired_difference(first.tolist(), second.tolist())
        held += found.low <= 0.9 - (0.7 * 0.9 + 0.3 * 0.74) <= found.high
    assert held >= 0.92 * 400


def opened(*steps):
    """Say at which steps of a chunk of 30 a gripper changes sides; it begins closed."""
    sides = np.zeros((30, 1), bool)
    for step in steps:
        sides[step:] = ~sides[step:]
    return sides


def test_flips_match_the_same_way_at_about_the_same_time():
    found = flip_agreement([opened(10, 20)], [opened(13, 28)], action_hz=30)
    assert (found.flips, found.flips_against, found.matched) == (2, 2, 1)
    assert found.agreement == 0.5
    assert found.sides_equal == 1 - 11 / 30


def test_a_flip_is_not_matched_twice_nor_the_wrong_way():
    twice = flip_agreement([opened(10, 11, 12)], [opened(11)], action_hz=30)
    assert (twice.matched, twice.agreement) == (1, 0.5)
    wrong = flip_agreement([~opened(10)], [opened(10)], action_hz=30)
    assert (wrong.matched, wrong.agreement, wrong.sides_equal) == (0, 0, 0)


def test_without_flips_there_is_nothing_to_agree_on():
    still = flip_agreement([opened()], [opened()], action_hz=30)
    assert still.agreement is None
    assert still.sides_equal == 1


def test_a_seam_is_the_change_of_velocity_from_one_tick_to_the_next():
    still = np.zeros((12, 2))
    rising = np.stack([np.arange(12) * 0.1, np.zeros(12)], axis=1)  # 3 deg/s at 30 Hz
    smooth = episode_seams([0.0, 0.2], [rising, rising + np.array([0.6, 0])], 30)
    np.testing.assert_allclose(smooth, [0], atol=1e-9)
    # From 1 deg to 0 in a tick, which is 30 deg/s, and still again.
    np.testing.assert_allclose(
        episode_seams([0.0, 0.2], [still + np.array([0, 1]), still], 30), [30]
    )
    np.testing.assert_allclose(episode_seams([0.0, 0.2], [still, rising], 30), [3])
    assert len(episode_seams([0.0, 0.2, 0.4], [still] * 3, 30)) == 2


def test_there_is_no_seam_where_nothing_is_followed():
    still = np.zeros((6, 2))
    assert len(episode_seams([0.0, 0.5], [still, still], 30)) == 0  # it was over before
    assert len(episode_seams([0.0, 0.1, 0.2], [still, None, still], 30)) == 0
    assert len(episode_seams([0.0, 0.2], [None, None], 30)) == 0
