"""What the loop and the policy's thread tell the ladder, and what its pace makes of them."""

import numpy as np
import pytest
from loop_rig import HOME, PERIOD_S
from loop_rig import Rig as LoopRig
from test_policy_thread import ARM_STATE, still
from test_policy_thread import Rig as ThreadRig

from edge.pace import FULL_PACE, Effort, Pace
from edge.safety import Outcome


class Told:
    """A pace that a test sets, and all that is told."""

    def __init__(self, pace=FULL_PACE):
        self.pace, self.ticks, self.calls, self.texts = pace, [], [], []

    def note_tick(self, late_s, missed):
        self.ticks.append((late_s, missed))

    def note_call(self, started_s, ended_s, chunk_s):
        self.calls.append((started_s, ended_s, chunk_s))

    def news(self):
        texts, self.texts = self.texts, []
        return texts


def test_loop_tells_of_every_tick_how_late_it_was_and_what_was_missed_before():
    def stall(tick, rig):
        if tick == 5:
            rig.clock.now_s += 3.4 * PERIOD_S

    rig, told = LoopRig(stall), Told()
    rig.loop._pacing = told
    rig.chunk()
    rig.run(1.0)
    assert len(told.ticks) == rig.box.n_ticks
    assert sum(missed for _, missed in told.ticks) == rig.box.missed_ticks > 0
    late_s, missed = max(told.ticks)
    assert missed == 2
    assert late_s == pytest.approx(2.4 * PERIOD_S + 0.003, abs=1e-6)


def test_news_become_events_of_the_tick_and_the_level_stands_in_its_row():
    told = Told()

    def step_down(tick, rig):
        if tick == 10:
            told.pace = Pace(level=3, speed_share=0.5)
            told.texts.append("ladder: down")

    rig = LoopRig(step_down)
    rig.loop._pacing = told
    rig.chunk()
    rig.run(1.0)
    rows = rig.box.columns()
    assert [text for _, _, text in rig.box.events()] == ["ladder: down"]
    assert list(np.unique(rows["level"])) == [0, 3]
    assert list(rows["speed_share"][rows["level"] == 3]) == [0.5] * (rows["level"] == 3).sum()
    assert rows["level"][10] == 0
    assert rows["level"][11] == 3  # from the next tick on


def test_hold_stops_the_arm_at_once_and_drops_what_it_followed():
    told = Told()

    def hold(tick, rig):
        if tick == 10:
            told.pace = Pace(level=1, hold="the ladder holds the arm: too hot")

    rig = LoopRig(hold)
    rig.loop._pacing = told
    rig.chunk(HOME + 3.0)
    rig.run(1.0)
    rows = rig.box.columns()
    assert set(rows["outcome"][11:]) == {Outcome.HOLD}
    assert not rows["has_goal"][11:].any()
    assert np.isnan(rows["chunk_age_s"][11:]).all()
    assert rig.box.events()[-1][2] == "hold: the ladder holds the arm: too hot"
    np.testing.assert_allclose(rows["written"][-1], rows["present"][11], atol=1e-6)


def test_policys_thread_tells_of_every_call_and_how_long_its_chunk_lasts():
    rig, told = ThreadRig(still), Told()

    def slow():
        rig.now_s += 1.25
        return still()

    rig.policy.answer, rig.thread._pacing = slow, told
    rig.thread.observe(ARM_STATE, 100.0)
    rig.thread.call_once()
    assert told.calls == [(100.0, 101.25, 1.0)]  # 30 actions, 30 a second


@pytest.mark.parametrize(("most_hz", "wait_s"), [(None, 0.2), (2.0, 0.5)])
def test_pace_spaces_the_calls(most_hz, wait_s):
    rig = ThreadRig(still)
    rig.thread._pacing = Told(Pace(max_policy_hz=most_hz))
    rig.thread.observe(ARM_STATE, 100.0)
    rig.thread.call_once()
    assert rig.thread._next_start_s() - 100.0 == pytest.approx(wait_s)


def test_effort_reaches_the_policy_only_when_something_is_given_up():
    rig, told, asked = ThreadRig(still), Told(), []
    act = rig.policy.act

    def watched(*args, **words):
        asked.append(words.pop("effort", None))
        return act(*args, **words)

    rig.policy.act, rig.thread._pacing = watched, told
    rig.thread.observe(ARM_STATE, 100.0)
    for effort in (Effort(), Effort(flow_steps=5), Effort()):
        told.pace = Pace(effort=effort)
        rig.thread.call_once()
    assert asked == [None, Effort(flow_steps=5), None]


def test_no_call_is_made_in_a_hold_and_its_chunk_is_cut():
    rig, told = ThreadRig(still), Told()
    rig.thread._pacing = told
    rig.thread.observe(ARM_STATE, 100.0)
    assert rig.thread.call_once()
    told.pace = Pace(level=1, hold="the ladder holds the arm: too hot")
    assert not rig.thread.call_once()
    assert rig.thread.trouble == "the ladder holds the arm: too hot"
    assert rig.chunks.goal_at(100.01) is None
    told.pace = FULL_PACE
    assert rig.thread.call_once()
    assert rig.thread.trouble is None
    assert len(rig.policy.asked) == 2
