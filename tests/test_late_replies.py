import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.late_replies import LATEST_S, MAX_OUTSTANDING, SPARING_S, LateReplies
from firmware_bridge.registers import TABLE_END

blocks = st.integers(0, TABLE_END - 1).flatmap(
    lambda start: st.tuples(st.just(start), st.integers(1, min(40, TABLE_END - start)))
)


@given(blocks, st.lists(st.integers(0, 60), max_size=2 * MAX_OUTSTANDING))
def test_block_to_read_holds_what_is_wanted_inside_the_table_and_nothing_owed_fits_it(block, owed):
    late = LateReplies()
    for length in owed:
        late.missed(3, length)
    address, length = block
    start, asked = late.free_block((1, 3), address, length)
    assert 0 <= start <= address
    assert address + length <= start + asked <= TABLE_END
    assert not late.may_come(3, asked)


def test_nothing_owed_changes_nothing():
    assert LateReplies().free_block((1, 2), 56, 15) == (56, 15)


def test_answer_settles_what_its_servo_owed_and_no_other():
    late = LateReplies()
    late.missed(1, 15)
    late.missed(2, 15)
    late.answered(1)
    assert not late.owes(1)
    assert late.may_come(2, 15)
    assert late.free_block((1,), 56, 15) == (56, 15)
    assert late.free_block((1, 2), 56, 15) == (56, 16)


def test_silent_servos_stand_last_and_take_turns():
    late = LateReplies()
    for servo_id in (2, 4, 5):
        late.missed(servo_id, 15)
    orders = [late.reliable_first([1, 2, 3, 4, 5, 6]) for _ in range(3)]
    assert all(order[:3] == [1, 3, 6] for order in orders)
    assert {order[3] for order in orders} == {2, 4, 5}


def test_cut_line_owes_nothing():
    late = LateReplies()
    late.missed(1, 2)
    late.forget()
    assert not late.owes(1)


def test_answers_are_given_up_when_they_are_too_late():
    now_s = [0.0]
    late = LateReplies(lambda: now_s[0])
    late.missed(3, 15)
    now_s[0] = LATEST_S / 2
    late.missed(3, 16)
    now_s[0] = LATEST_S + 1e-6
    assert not late.may_come(3, 15)
    assert late.may_come(3, 16)
    now_s[0] = 2 * LATEST_S
    assert not late.owes(3)


@pytest.mark.parametrize("rate_hz", [30, 100, 400])
def test_servo_that_stays_silent_is_asked_often_enough_and_never_owes_too_much(rate_hz):
    now_s = [0.0]
    late = LateReplies(lambda: now_s[0])
    last_asked_s = 0.0
    for tick in range(5 * rate_hz):
        now_s[0] = tick / rate_hz
        if late.may_ask(3):
            start, asked = late.free_block((3,), 56, 15)
            assert start >= 0
            assert start + asked <= TABLE_END
            assert not late.may_come(3, asked)
            late.missed(3, asked)
            last_asked_s = now_s[0]
        assert now_s[0] - last_asked_s < SPARING_S + 1 / rate_hz
    assert late.may_ask(4)
