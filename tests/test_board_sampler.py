"""The sampler: what fell into which phase, and what psutil adds where files are silent."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("onnx")

from benchmarks import board_sampler
from benchmarks.board_sampler import BoardSampler
from benchmarks.profile_board import board_part, memory_parts, sample_columns
from edge.board_state import BoardState


class Board:
    """Answers with the states it was given, and the last one again and again."""

    def __init__(self, *states):
        self.states = list(states)
        self.asked = threading.Event()

    def state(self):
        self.asked.set()
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture(autouse=True)
def _without_psutil(monkeypatch):
    monkeypatch.setattr(board_sampler, "optional_psutil", lambda: None)


def test_every_phase_has_a_sample_at_its_beginning_and_its_end():
    times = iter(range(100))
    sampler = BoardSampler(Board(BoardState(t_s=0.0)), clock=lambda: next(times))
    with sampler.phase("rest"):
        pass
    with pytest.raises(ZeroDivisionError), sampler.phase("loop"):
        raise ZeroDivisionError
    assert [sample.phase for sample in sampler.samples] == ["rest", "rest", "loop", "loop"]
    assert [(p.name, p.began_s, p.ended_s) for p in sampler.phases] == [
        ("rest", 0, 1),
        ("loop", 2, 3),
    ]


def test_its_thread_samples_until_it_is_closed():
    board = Board(BoardState(t_s=0.0))
    sampler = BoardSampler(board, period_s=0.001)
    sampler.start()
    board.asked.clear()
    assert board.asked.wait(10.0)
    sampler.close()
    taken = len(sampler.samples)
    board.asked.clear()
    assert not board.asked.wait(0.01)
    assert len(sampler.samples) == taken >= 2


def test_psutil_fills_in_only_what_files_do_not_say(monkeypatch):
    psutil = SimpleNamespace(
        cpu_percent=lambda interval: 37.5,
        cpu_freq=lambda: SimpleNamespace(current=2450.0),
        sensors_temperatures=lambda: {"k10temp": [SimpleNamespace(label="Tctl", current=55.0)]},
    )
    monkeypatch.setattr(board_sampler, "optional_psutil", lambda: psutil)
    told = BoardState(t_s=1.0, temperatures_c={"cpu": 40.0}, clocks_mhz={"cpu": 1000.0})
    sampler = BoardSampler(Board(BoardState(t_s=0.0), told), period_s=60.0)
    sampler.start()
    sampler.take()
    sampler.close()
    silent, speaking = sampler.samples
    assert silent.state.clocks_mhz == {"cpu": 2450.0}
    assert silent.state.temperatures_c == {"k10temp Tctl": 55.0}
    assert (speaking.state.clocks_mhz, speaking.state.temperatures_c) == (
        {"cpu": 1000.0},
        {"cpu": 40.0},
    )
    assert (silent.cpu_percent, speaking.cpu_percent) == (None, 37.5)  # the first is over no time


def test_the_board_part_is_the_worst_of_all_samples():
    states = (
        BoardState(t_s=5.0, temperatures_c={"tj": 60.0}, over_current_events={"oc3": 2}),
        BoardState(t_s=6.0, temperatures_c={"tj": 71.0}, throttled=True, throttle_reason="hot"),
        BoardState(t_s=7.0, throttled=False, over_current_events={"oc3": 3}),
    )
    sampler = BoardSampler(Board(*states))
    for _ in states:
        sampler.take()
    part = board_part(sampler.samples, began_s=5.0)
    assert (part.throttled, part.throttle_reasons, part.hottest_c) == (True, ["hot"], 71.0)
    assert part.over_current_events == {"oc3": 5}
    columns = sample_columns(sampler.samples, began_s=5.0)
    assert columns["t_s"] == [0.0, 1.0, 2.0]
    assert columns["temperatures_c.tj"] == [60.0, 71.0, None]


def test_memory_is_given_for_the_phases_that_were():
    sampler = BoardSampler(Board(BoardState(t_s=0.0, memory_available_mib=100.0)))
    with sampler.phase("stages"):
        pass
    parts = memory_parts(sampler.samples, ("stages", "loop"))
    assert list(parts) == ["stages"]
    assert parts["stages"].system_available_mib == 100.0
    assert parts["stages"].most_mib >= parts["stages"].anon_mib > 1.0
