import os
from types import SimpleNamespace

import numpy as np
import pytest
from readings import reading_of
from recorded_run import CARD, NAMES, record_run

import edge.black_box
from edge.black_box import BlackBox, BlackBoxError, Tick
from edge.box_file import BoxFile
from edge.box_layout import N_EVENTS
from edge.box_reader import read_box
from edge.safety import Outcome, Rule, TickAges
from firmware_bridge.last_words import LastWords

N_JOINTS = len(NAMES)


def tick(number, outcome=Outcome.PASS, rule=Rule.NONE, joint="", note=""):
    positions = np.arange(N_JOINTS) + number / 7.0
    return Tick(
        slot=number,
        started_s=100.0 + number,
        late_s=0.001,
        checked_s=100.002 + number,
        decided_s=100.003 + number,
        written_s=100.004 + number,
        reading=reading_of(positions, 100.0015 + number),
        ages=TickAges(0.001, 0.2, (0.03, 0.04)),
        asked=positions + 1.0,
        verdict=SimpleNamespace(
            outcome=outcome,
            goal=positions + 0.5,
            rule=rule,
            joint=joint,
            value=1.5,
            limit=1.0,
            reason=note,
        ),
        chunk=number // 10,
    )


def box_with(n_ticks, capacity=20):
    box = BlackBox(capacity, NAMES, 2)
    box.seal_card(CARD)
    for number in range(n_ticks):
        box.add(tick(number))
    return box


def written(box, path):
    BoxFile(path, box.layout.total_bytes).write(box)
    return read_box(path)


def test_what_a_tick_knew_comes_back_to_the_last_bit(tmp_path):
    box = record_run(lost=(10, 11))
    read = written(box, tmp_path / "run.box")
    ours, theirs = box.columns(), read.view.columns()
    assert len(ours["t_s"]) == 90
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    np.testing.assert_array_equal(box.counts, read.view.counts)
    assert read.view.read_errors == 2
    assert read.view.text("reason") == "3 s are over"
    assert read.card["task"] == "pick up the red cube"
    assert ours["bus_errors"][-1] == 2
    np.testing.assert_allclose(ours["camera_ages_s"], 0.05, atol=1e-9)


def test_full_ring_keeps_the_newest_ticks_and_counts_all(tmp_path):
    box = box_with(53)
    view = written(box, tmp_path / "run.box").view
    np.testing.assert_array_equal(view.columns()["slot"], np.arange(33, 53))
    assert view.n_ticks == 53
    assert view.outcome_counts[Outcome.PASS] == 53


def test_holds_and_stops_are_noted_once_with_their_reason():
    box = BlackBox(20, NAMES, 2)
    for number in range(3):
        box.add(tick(number, Outcome.HOLD, Rule.GOAL, note="no action chunk"))
    box.add(tick(3))
    box.add(tick(4, Outcome.HOLD, Rule.STATE, note="servo state is 120 ms old"))
    box.add(tick(5, Outcome.STOP, Rule.STATE, note="servo state is 320 ms old"))
    assert [(number, text) for number, _, text in box.events()] == [
        (1, "hold: no action chunk"),
        (5, "hold: servo state is 120 ms old"),
        (6, "stop: servo state is 320 ms old"),
    ]


def test_events_are_a_ring_and_texts_are_cut_between_characters():
    box = BlackBox(20, NAMES, 2)
    for number in range(N_EVENTS + 3):
        box.note(float(number), f"event {number}\nof many")
    texts = [text for _, _, text in box.events()]
    assert (len(texts), texts[0], texts[-1]) == (
        N_EVENTS,
        "event 3 of many",
        f"event {N_EVENTS + 2} of many",
    )
    box.note(0.0, "°" * 300)
    assert set(box.events()[-1][2]) == {"°"}
    box.set_text("reason", "°" * 300)
    assert set(box.text("reason")) == {"°"}


def test_clamps_are_counted_by_rule_and_joint():
    box = BlackBox(20, NAMES, 2)
    for number in range(3):
        box.add(tick(number, Outcome.CLAMP, Rule.LEAD, NAMES[2]))
    assert box.counts[Outcome.CLAMP, Rule.LEAD, 3] == 3
    assert box.counts.sum() == 3


def test_tick_before_any_reading_and_verdict_is_recorded(tmp_path):
    box = box_with(0)
    box.add(Tick(started_s=1.0, late_s=0.0, checked_s=1.1, decided_s=1.1, written_s=1.1))
    columns = written(box, tmp_path / "run.box").view.columns()
    assert columns["outcome"][0] == -1
    assert not columns["has_goal"][0]
    assert np.isnan(columns["present"]).all()
    assert np.isnan(columns["camera_ages_s"]).all()


def test_another_process_writes_the_box_out_of_its_memory(tmp_path):
    box = box_with(53)
    file = BoxFile(tmp_path / "run.box", box.layout.total_bytes)
    words = file.handover(box)
    LastWords(
        words.n_bytes, words.reason_offset, words.reason_bytes, words.allocated, words.path
    ).write(words.descriptor, "process 7 was killed (signal 9)")
    read = read_box(tmp_path / "run.box")
    assert read.view.text("outside_reason") == "process 7 was killed (signal 9)"
    assert read.view.text("reason") == ""
    assert read.view.columns()["slot"][-1] == 52
    assert [path.name for path in tmp_path.iterdir()] == ["run.box"]


def test_row_that_was_being_overwritten_is_left_out(tmp_path):
    box = box_with(53)
    box.ring["present"][53 % 20] = 0.0  # the oldest row: tick 33
    np.testing.assert_array_equal(
        written(box, tmp_path / "run.box").view.columns()["slot"], np.arange(34, 53)
    )


def test_box_without_memfd_works_and_cannot_be_handed_over(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    box = box_with(5)
    file = BoxFile(tmp_path / "run.box", box.layout.total_bytes)
    assert file.handover(box) is None
    file.write(box)
    assert read_box(tmp_path / "run.box").view.n_ticks == 5


def test_no_memory_is_one_line(monkeypatch):
    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(edge.black_box.mmap, "mmap", refuse)
    with pytest.raises(BlackBoxError, match=r"no memory for the black box .*black_box.seconds"):
        BlackBox(20, NAMES, 2)


def test_card_that_is_too_long_is_refused():
    with pytest.raises(BlackBoxError, match="limit 131072; shorten the task"):
        BlackBox(20, NAMES, 2).seal_card({"task": "x" * 200_000})
