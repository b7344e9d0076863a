import numpy as np
import pytest

from edge.seams import seam_jumps

HZ = 50.0
TIMES_S = 7.0 + np.arange(100) / HZ
CHUNK = np.repeat([0, 1], 50)


def test_smooth_seam_has_no_jump_and_a_step_is_two_jumps_of_its_height_in_a_tick():
    ramp = np.stack([TIMES_S, -2 * TIMES_S], axis=1)
    np.testing.assert_allclose(seam_jumps(TIMES_S, ramp, CHUNK), 0.0, atol=1e-9)
    ramp[50:, 1] += 3.0
    np.testing.assert_allclose(seam_jumps(TIMES_S, ramp, CHUNK), 3.0 * HZ)


def test_jump_far_from_a_seam_does_not_count_and_one_shortly_after_does():
    late = np.zeros((100, 1))
    late[80:] = 1.0
    assert seam_jumps(TIMES_S, late, CHUNK) == pytest.approx(0.0)
    late[55:] = 1.0
    assert seam_jumps(TIMES_S, late, CHUNK) == pytest.approx(HZ)


def test_late_ticks_make_no_jump_where_the_goal_moves_evenly():
    times_s = TIMES_S + 0.005 * np.random.default_rng(0).random(100)
    np.testing.assert_allclose(seam_jumps(times_s, times_s[:, None], CHUNK), 0.0, atol=1e-9)


def test_first_chunk_and_seams_beside_a_hold_are_no_seams():
    asked = np.zeros((100, 1))
    assert len(seam_jumps(TIMES_S, asked, np.repeat([-1, 0], 50))) == 0
    asked[48] = np.nan
    assert len(seam_jumps(TIMES_S, asked, CHUNK)) == 0
    assert len(seam_jumps(TIMES_S[:2], asked[:2], CHUNK[:2])) == 0
