import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.depth_refresh import DepthRefresh
from edge.pace import FULL_EFFORT, Effort

CELLS = 9


def cells(*numbers):
    asked = np.zeros(CELLS, bool)
    asked[list(numbers)] = True
    return asked


def ask(refresh, changed, effort):
    asked = refresh.choose(changed, effort)
    return list(np.flatnonzero(asked)), refresh.done()


def test_without_a_limit_every_changed_cell_is_asked():
    refresh = DepthRefresh(CELLS)
    assert ask(refresh, cells(1, 4), FULL_EFFORT) == ([1, 4], True)
    assert ask(refresh, cells(), FULL_EFFORT) == ([], True)


def test_codes_are_refreshed_at_every_nth_call_and_stay_with_their_picture_between():
    refresh, effort = DepthRefresh(CELLS), Effort(depth_every_calls=3)
    rounds = [ask(refresh, cells(number), effort) for number in range(6)]
    assert rounds == [([], False), ([], False), ([2], True), ([], False), ([], False), ([5], True)]


def test_cells_beyond_the_limit_are_owed_and_come_in_turn():
    refresh, effort = DepthRefresh(CELLS), Effort(depth_max_cells=2)
    assert ask(refresh, cells(0, 3, 5, 8), effort) == ([0, 3], True)
    assert ask(refresh, cells(0), effort) == ([5, 8], True)
    assert ask(refresh, cells(), effort) == ([0], True)
    assert ask(refresh, cells(), effort) == ([], True)


def test_taking_the_limit_back_asks_everything_that_is_owed():
    refresh = DepthRefresh(CELLS)
    ask(refresh, cells(0, 1, 2, 3), Effort(depth_max_cells=1))
    assert ask(refresh, cells(7), FULL_EFFORT) == ([1, 2, 3, 7], True)


def test_call_that_failed_before_its_codes_changes_nothing():
    refresh, effort = DepthRefresh(CELLS), Effort(depth_max_cells=1, depth_every_calls=2)
    refresh.choose(cells(4), effort)
    assert ask(refresh, cells(4), effort) == ([], False)
    assert ask(refresh, cells(4), effort) == ([4], True)


@given(
    st.lists(st.lists(st.integers(0, CELLS - 1), max_size=CELLS), min_size=1, max_size=20),
    st.integers(1, 4),
    st.integers(1, CELLS),
)
def test_every_cell_that_changed_is_asked_in_the_end_and_never_too_many(changes, every, most):
    refresh, effort = DepthRefresh(CELLS), Effort(depth_every_calls=every, depth_max_cells=most)
    stale = np.zeros(CELLS, bool)  # as a picture of the last refresh would show it
    for numbers in [*changes, *[[]] * (every * (CELLS + 1))]:
        stale |= cells(*numbers)
        asked = refresh.choose(stale.copy(), effort)
        assert np.count_nonzero(asked) <= most
        assert not (asked & ~stale).any()
        refresh.done()
        stale &= ~asked
    assert not stale.any()


@pytest.mark.parametrize("calls", [0, 5])
def test_forgetting_begins_anew(calls):
    refresh, effort = DepthRefresh(CELLS), Effort(depth_max_cells=1)
    for _ in range(calls):
        ask(refresh, cells(*range(CELLS)), effort)
    refresh.forget()
    assert ask(refresh, cells(8), effort) == ([8], True)
