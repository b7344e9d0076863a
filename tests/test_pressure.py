import pytest

from edge.pressure import Deadlines

PERIOD_S = 1.0 / 30.0


def ticked(deadlines, count, late_s=0.0, missed=0):
    for _ in range(count):
        deadlines.note_tick(late_s, missed)


def test_too_few_say_nothing():
    deadlines = Deadlines(0.02, 10.0, 4)
    assert deadlines.shares(0.0) == (None, None)
    ticked(deadlines, 3, 0.5)
    for number in range(3):
        deadlines.note_call(number, number + 2.0, 1.0)
    assert deadlines.shares(1.0) == (None, None)
    ticked(deadlines, 1)
    deadlines.note_call(3.0, 3.5, 1.0)
    assert deadlines.shares(2.0) == (0.75, 0.75)


@pytest.mark.parametrize(("late_s", "share"), [(0.02, 0.0), (0.0201, 1.0)])
def test_tick_is_late_beyond_its_limit(late_s, share):
    deadlines = Deadlines(0.02, 10.0, 4)
    ticked(deadlines, 8, late_s)
    assert deadlines.shares(1.0)[1] == share


def test_missed_ticks_count_as_late_and_the_one_after_them_as_run():
    deadlines = Deadlines(0.02, 10.0, 4)
    ticked(deadlines, 2, 3 * PERIOD_S, missed=3)
    assert deadlines.shares(1.0)[1] == pytest.approx(6 / 8)


@pytest.mark.parametrize(("call_s", "share"), [(1.0, 0.0), (1.001, 1.0)])
def test_call_is_late_when_it_takes_longer_than_its_chunk_lasts(call_s, share):
    deadlines = Deadlines(0.02, 10.0, 1)
    for start_s in range(4):
        deadlines.note_call(start_s, start_s + call_s, 1.0)
    assert deadlines.shares(5.0)[0] == share


@pytest.mark.parametrize("min_count", [1, 1000])
def test_calls_longer_than_the_window_are_counted_however_many_ticks_are_asked_for(min_count):
    deadlines = Deadlines(0.02, 10.0, min_count)
    shares = []
    for number in range(6):
        deadlines.note_call(12.0 * number, 12.0 * (number + 1), 1.0)
        shares.append(deadlines.shares(12.0 * (number + 1))[0])
    assert shares == [None, None, None, 1.0, 1.0, 1.0]


def test_calls_of_the_whole_window_count_where_there_are_more_than_the_fewest():
    deadlines = Deadlines(0.02, 10.0, 1)
    for tenth in range(100):  # those of the first 5 s are late
        start_s = tenth / 10
        deadlines.note_call(start_s, start_s + 0.1, 1.0 if tenth >= 50 else 0.01)
    assert [deadlines.shares(now_s)[0] for now_s in (9.99, 16.0)] == [0.5, 0.0]


def test_what_is_older_than_the_window_is_forgotten():
    deadlines = Deadlines(0.02, 10.0, 4)
    ticked(deadlines, 30, 1.0)
    assert deadlines.shares(1.0)[1] == 1.0
    shares = []
    for second in range(2, 15):
        ticked(deadlines, 30)
        shares.append(deadlines.shares(float(second))[1])
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0.0


def test_after_a_step_only_what_began_since_counts():
    deadlines = Deadlines(0.02, 10.0, 2)
    ticked(deadlines, 30, 1.0)
    deadlines.note_call(0.0, 2.0, 1.0)
    deadlines.forget(5.0)
    assert deadlines.shares(6.0) == (None, None)
    deadlines.note_call(4.0, 9.0, 1.0)  # was under way at the step
    for start_s in (9.0, 9.5, 10.0, 10.5):
        deadlines.note_call(start_s, start_s + (0.5 if start_s < 10.0 else 1.5), 1.0)
    ticked(deadlines, 10)
    assert deadlines.shares(12.0) == (0.5, 0.0)
