"""The ladder's thread, looked at once at a time on an injected clock."""

import threading
from types import SimpleNamespace

from ladder_settings import LADDER

from edge.ladder_watch import LadderWatch
from edge.pace import FULL_PACE

CALM = SimpleNamespace(headroom_c=40.0, throttled=False, throttle_reason="")
HOT = SimpleNamespace(headroom_c=2.0, throttled=None, throttle_reason="")
THROTTLED = SimpleNamespace(headroom_c=2.0, throttled=True, throttle_reason="soctherm")


class Rig:
    def __init__(self, rungs=LADDER.rungs, left_out=()):
        self.now_s, self.board = 50.0, CALM
        self.rates, self.said = [], []
        camera = SimpleNamespace(limit_rate=self.rates.append)
        self.watch = LadderWatch(
            LADDER,
            rungs,
            left_out,
            lambda: self.board,
            [camera, camera],
            self.said.append,
            lambda: self.now_s,
        )

    def look(self, board, seconds=1, punctual=True):
        self.board = board
        steps = []
        for _ in range(seconds):
            self.now_s += 1.0
            for _ in range(4 if punctual else 0):
                self.watch.note_tick(0.0, 0)
                self.watch.note_call(self.now_s - 0.5, self.now_s - 0.4, 1.0)
            steps.append(self.watch.look())
        return [step for step in steps if step is not None]


def test_each_step_changes_the_pace_is_said_once_and_told_once():
    rig = Rig()
    assert rig.look(CALM, 30) == []
    assert rig.watch.pace is FULL_PACE
    assert rig.watch.news() == ()
    rig.look(HOT)
    assert rig.watch.pace.effort.draft_window == 8
    (line,) = rig.said
    assert line == (
        "ladder: down to draft_window 8 (level 1 of 8): 2.0 C to the trip point, limit 5.0 C"
    )
    assert list(rig.watch.news()) == [line]
    assert rig.watch.news() == ()


def test_cameras_are_told_their_rate_when_it_changes_and_no_more():
    rig = Rig()
    rig.look(THROTTLED, 60)
    assert rig.watch.pace.hold == (
        "the ladder holds the arm: the board throttles (soctherm); 2.0 C to the trip point, limit "
        "5.0 C"
    )
    assert rig.rates == [5.0, 5.0]
    rig.look(CALM, 400)
    assert rig.rates == [5.0, 5.0, None, None]
    assert rig.watch.pace == FULL_PACE


def test_late_calls_and_ticks_press_and_are_forgotten_with_each_step():
    rig = Rig()
    for _ in range(5):
        rig.watch.note_call(rig.now_s, rig.now_s + 2.0, 1.0)
    (step,) = rig.look(CALM, punctual=False)
    assert step.reason.startswith("100% of policy calls took longer")
    assert rig.look(CALM, 10, punctual=False) == []
    for _ in range(100):
        rig.watch.note_tick(0.05, 0)
    (step,) = rig.look(CALM, punctual=False)
    assert step.reason == "100% of ticks late or missed, limit 10%"


def test_calls_longer_than_their_chunks_and_the_window_take_the_ladder_down_and_never_up():
    rig = Rig()
    levels = []
    for _ in range(20):
        began_s = rig.now_s
        for _ in range(12):
            rig.now_s += 1.0
            for _ in range(30):
                rig.watch.note_tick(0.0, 0)
            rig.watch.look()
            levels.append(rig.watch.pace.level)
        rig.watch.note_call(began_s, rig.now_s, 1.0)
    assert levels == sorted(levels)
    assert levels[-1] == 4  # a step after every fourth call; the fifth would come at the next look


def test_record_has_rungs_steps_and_why_others_were_left_out():
    rig = Rig(LADDER.rungs[6:], ("left out: flow_steps 5: never validated",))
    assert rig.watch.lines() == [
        "ladder: speed_share 0.5, hold",
        "ladder: left out: flow_steps 5: never validated",
    ]
    rig.look(THROTTLED, 3)
    rig.look(CALM, 30)
    record = rig.watch.record()
    assert (record["rungs"], record["level"]) == (["speed_share 0.5", "hold"], 0)
    assert [(step["at_s"], step["to_level"]) for step in record["steps"]] == [(1.0, 1), (24.0, 0)]
    assert record["steps"][0]["reason"].startswith("the board throttles (soctherm)")
    assert record["problem"] is None


def test_ladder_without_a_rung_says_so():
    assert Rig(()).watch.lines() == ["ladder: no rung can be used"]


def test_reader_that_breaks_is_said_once_and_the_pace_stays(monkeypatch):
    monkeypatch.setattr("edge.ladder_watch.LOOK_S", 0.001)
    rig, broke = Rig(), threading.Event()
    rig.look(HOT)
    pace, rig.watch._tell = rig.watch.pace, lambda line: (rig.said.append(line), broke.set())

    def fail():
        raise RuntimeError("no\nsuch sensor")

    rig.watch._read_board = fail
    rig.watch.start()
    assert broke.wait(5.0)
    rig.watch.stop()
    assert rig.watch.pace is pace
    problem = "nobody watches the board any more: RuntimeError: no such sensor"
    assert rig.watch.record()["problem"] == problem
    assert rig.said[-1] == f"ladder: {problem}"


def test_watch_that_was_never_started_stops_at_once():
    Rig().watch.stop()
