import numpy as np
import pytest

from edge.chunks import ChunkBuffer

HZ = 10.0


def buffer(blend_s=0.0, max_chunk_age_s=10.0, n_joints=2):
    return ChunkBuffer(n_joints, HZ, blend_s, max_chunk_age_s)


def ramp(start, n_actions=10, step=1.0):
    column = start + step * np.arange(n_actions, dtype=np.float64)
    return np.stack([column, -column], axis=1)


def test_nothing_put_gives_no_goal():
    assert buffer().goal_at(0.0) is None
    assert buffer().remaining_s(0.0) == 0.0


def test_actions_are_due_one_period_apart_and_interpolated_between():
    chunks = buffer()
    chunks.put(ramp(0.0), observed_s=5.0, now_s=5.0)
    for t_s, expected in [(5.0, 0.0), (5.1, 1.0), (5.25, 2.5), (5.9, 9.0), (5.95, 9.0)]:
        np.testing.assert_allclose(chunks.goal_at(t_s), [expected, -expected], atol=1e-9)
    assert chunks.number_in_use == 0


def test_exhausted_chunk_gives_no_goal():
    chunks = buffer()
    chunks.put(ramp(0.0), observed_s=5.0, now_s=5.0)
    assert chunks.goal_at(5.999) is not None
    assert chunks.goal_at(6.001) is None
    assert chunks.number_in_use == -1


def test_chunk_older_than_its_limit_gives_no_goal():
    chunks = buffer(max_chunk_age_s=0.5)
    chunks.put(ramp(0.0), observed_s=5.0, now_s=5.0)
    assert chunks.goal_at(5.499) is not None
    assert chunks.goal_at(5.501) is None


def test_late_chunk_skips_the_actions_the_arm_has_lived_through():
    chunks = buffer()
    chunks.put(ramp(0.0), observed_s=0.0, now_s=0.0)
    # Observed at 0.3 while the first chunk ran, ready at 0.7: its action for 0.4 s later is next.
    chunks.put(ramp(100.0), observed_s=0.3, now_s=0.7)
    np.testing.assert_allclose(chunks.goal_at(0.7), [104.0, -104.0])
    np.testing.assert_allclose(chunks.goal_at(1.2), [109.0, -109.0])


def test_first_chunk_starts_at_its_beginning_however_long_it_took():
    chunks = buffer()
    chunks.put(ramp(0.0), observed_s=0.0, now_s=4.0)
    np.testing.assert_allclose(chunks.goal_at(4.0), [0.0, 0.0])


def test_only_time_in_motion_counts_as_lateness():
    chunks = buffer()
    chunks.put(ramp(0.0), observed_s=0.0, now_s=0.0)
    # The first chunk ended at 1.0, so of the 2.5 s since 0.6 the arm moved for 0.4 s.
    chunks.put(ramp(100.0), observed_s=0.6, now_s=3.1)
    np.testing.assert_allclose(chunks.goal_at(3.1), [104.0, -104.0])
    # Observed after the chunk had ended: the arm stood still all the time.
    chunks.put(ramp(200.0), observed_s=5.0, now_s=9.0)
    np.testing.assert_allclose(chunks.goal_at(9.0), [200.0, -200.0])


def test_chunk_that_arrives_with_no_action_left_gives_no_goal():
    chunks = buffer()
    chunks.put(ramp(0.0, n_actions=30), observed_s=0.0, now_s=0.0)
    chunks.put(ramp(100.0, n_actions=10), observed_s=0.5, now_s=2.0)
    assert chunks.goal_at(2.0) is None


def test_seam_moves_from_the_old_chunk_to_the_new_one_without_a_step():
    chunks = buffer(blend_s=0.2)
    chunks.put(np.zeros((10, 2)), observed_s=0.0, now_s=0.0)
    chunks.put(np.full((10, 2), 8.0), observed_s=0.4, now_s=0.5)
    np.testing.assert_allclose(chunks.goal_at(0.5), 0.0, atol=1e-9)
    np.testing.assert_allclose(chunks.goal_at(0.6), 4.0)
    np.testing.assert_allclose(chunks.goal_at(0.7), 8.0)


def test_seam_after_an_exhausted_chunk_takes_the_new_one_at_once():
    chunks = buffer(blend_s=0.2)
    chunks.put(np.zeros((10, 2)), observed_s=0.0, now_s=0.0)
    chunks.put(np.full((10, 2), 8.0), observed_s=2.0, now_s=2.0)
    np.testing.assert_allclose(chunks.goal_at(2.05), 8.0)


def test_chunks_that_come_faster_than_they_blend_never_make_the_goal_step():
    chunks = buffer(blend_s=0.4)
    before = None
    for tick in range(200):
        t_s = tick * 0.01
        if tick % 15 == 0:  # every 0.15 s, each 8 away from the last
            chunks.put(np.full((10, 2), 8.0 * (tick // 15 % 2)), t_s, t_s)
        goal = chunks.goal_at(t_s).copy()
        assert before is None or np.abs(goal - before).max() <= 8.0 * 0.01 / 0.4 + 1e-9
        before = goal


def test_chunk_that_agrees_at_the_seam_takes_over_at_once():
    chunks = buffer(blend_s=0.4)
    chunks.put(ramp(0.0), observed_s=0.0, now_s=0.0)
    held = ramp(3.0)  # what the first chunk asks for from 0.3 on, ...
    held[3:] = 20.0  # ... up to 0.5; then it goes its own way
    newest = chunks.put(held, observed_s=0.3, now_s=0.45)
    np.testing.assert_allclose(newest.gap, 0.0, atol=1e-9)
    for t_s, expected in [(0.449, 4.49), (0.46, 4.6), (0.5, 5.0), (0.6, 20.0)]:
        np.testing.assert_allclose(chunks.goal_at(t_s)[0], expected)


def test_seam_is_blended_also_when_the_old_chunk_would_have_ended_meanwhile():
    chunks = buffer(blend_s=0.4)
    chunks.put(ramp(0.0), observed_s=0.0, now_s=0.0)
    chunks.put(np.full((10, 2), 17.0), observed_s=0.9, now_s=0.9)
    for t_s, goal in [(0.9, 9.0), (0.99, 10.8), (1.01, 11.2), (1.3, 17.0)]:
        np.testing.assert_allclose(chunks.goal_at(t_s)[0], goal)


def test_broken_chunk_is_replaced_at_once():
    chunks = buffer(blend_s=0.4)
    chunks.put(np.full((10, 2), np.nan), observed_s=0.0, now_s=0.0)
    chunks.put(ramp(0.0), observed_s=0.5, now_s=0.5)
    np.testing.assert_allclose(chunks.goal_at(0.5), 0.0)


def test_measurement_read_just_before_a_chunk_came_is_answered_with_the_old_one():
    chunks = buffer(blend_s=0.2)
    chunks.put(np.zeros((10, 2)), observed_s=0.0, now_s=0.0)
    chunks.put(np.full((10, 2), 8.0), observed_s=0.4, now_s=0.5)
    np.testing.assert_allclose(chunks.goal_at(0.4999), 0.0)
    first = buffer()
    first.put(ramp(3.0), observed_s=0.0, now_s=0.5)
    np.testing.assert_allclose(first.goal_at(0.4999), [3.0, -3.0])


def test_ahead_is_what_the_arm_will_be_asked_one_action_period_apart():
    chunks = buffer(blend_s=0.25)
    chunks.put(ramp(0.0), observed_s=0.0, now_s=0.0)
    chunks.put(ramp(50.0), observed_s=0.3, now_s=0.52)
    for from_s in (0.52, 0.555, 0.9):
        goals = chunks.ahead(from_s, 100)
        times = from_s + np.arange(len(goals)) / HZ
        np.testing.assert_allclose(goals, [chunks.goal_at(t_s).copy() for t_s in times])
        assert chunks.goal_at(times[-1] + 1 / HZ) is None
    assert len(chunks.ahead(0.6, 2)) == 2


def test_nothing_is_ahead_without_a_chunk_or_after_its_end():
    chunks = buffer()
    assert chunks.ahead(0.0, 10).shape == (0, 2)
    chunks.put(ramp(0.0), observed_s=5.0, now_s=5.0)
    assert chunks.ahead(6.0, 10).shape == (0, 2)
    assert len(chunks.ahead(4.9, 100)) == 10  # never more than the chunk has


def test_asking_what_is_ahead_leaves_the_goal_of_the_control_thread_alone():
    chunks = buffer()
    chunks.put(ramp(0.0), observed_s=0.0, now_s=0.0)
    goal = chunks.goal_at(0.2)
    chunks.ahead(0.5, 10)
    np.testing.assert_allclose(goal, [2.0, -2.0])
    assert chunks.number_in_use == 0


def test_buffer_keeps_its_own_copy_of_the_actions():
    chunks = buffer()
    actions = ramp(0.0)
    chunks.put(actions, observed_s=0.0, now_s=0.0)
    actions[:] = 99.0
    np.testing.assert_allclose(chunks.goal_at(0.1), [1.0, -1.0])


@pytest.mark.parametrize("shape", [(10, 3), (10,), (0, 2)])
def test_chunk_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="chunk of shape"):
        buffer().put(np.zeros(shape), observed_s=0.0, now_s=0.0)


def test_chunk_that_was_cut_is_over_and_the_next_begins_at_its_beginning():
    chunks = buffer()
    chunks.cut(4.0)
    chunks.put(ramp(0.0), observed_s=5.0, now_s=5.0)
    chunks.cut(5.3)
    chunks.cut(5.6)  # it is over already
    assert chunks.goal_at(5.29) is not None
    assert chunks.goal_at(5.31) is None
    assert chunks.remaining_s(5.1) == pytest.approx(0.2)
    chunks.put(ramp(100.0), observed_s=6.0, now_s=6.4)  # the arm stood still meanwhile
    np.testing.assert_allclose(chunks.goal_at(6.4), [100.0, -100.0])
