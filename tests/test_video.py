import time
from types import SimpleNamespace

import numpy as np
import pytest

from edge.black_box import NOT_ASKED, BlackBox
from edge.recording import RECORD_HZ, RecordedFrame, Recorder, _jpeg
from edge.safety import Outcome
from edge.task_turns import DONE, TIME_UP, Turn
from edge.video import BAD, GOOD, HEADER_PX, LIT, TASKS_PX, compose_picture, write_video

TURNS = [Turn(0, "pick up the red cube", began_s=0.0)]
BOX = BlackBox(10, ("shoulder_pan",), 0)


def call(number, ended_s, codes, asked=()):
    mask = None if codes is None else np.isin(np.arange(len(codes)), asked)
    return SimpleNamespace(
        number=number,
        started_s=ended_s - 0.1,
        ended_s=ended_s,
        depth_codes=codes,
        depth_passes=3,
        changed_cells=len(asked),
        asked_cells=mask,
    )


def frame(t_s, width=320):
    picture = _jpeg(np.full((240, width, 3), (200, 30, 30), np.uint8))
    return RecordedFrame(t_s, (picture, picture))


def places_of(colour, picture):
    return np.nonzero(np.all(picture == colour, axis=2))


def test_cells_that_were_asked_again_are_lit_in_the_calls_order():
    codes = np.arange(100)
    calls = [call(0, 1.0, codes), call(1, 2.0, codes, asked=[42])]
    columns = BOX.columns()
    top = HEADER_PX + TASKS_PX
    before = compose_picture(frame(1.5), columns, calls, TURNS)
    after = compose_picture(frame(2.5), columns, calls, TURNS)
    assert before.shape == after.shape
    assert places_of(LIT, before[top:])[0].size == 0
    rows, places = places_of(LIT, after[top:])
    side = 240 // 10
    assert (rows.min() // side, (places.min() - (3 * 8 + 2 * 320)) // side) == (4, 2)
    assert (rows.max() - rows.min()) < side
    assert (places.max() - places.min()) < side


def test_tasks_are_shown_with_what_was_found_by_then():
    turns = [
        Turn(0, "touch the red cube", 0.0, 5.0, DONE, done_s=4.9, judged=True),
        Turn(1, "put the red cube in the bin", 5.0, 9.0, TIME_UP, judged=True),
        Turn(2, "wave", 9.0, 12.0, TIME_UP),
    ]
    verdicts = [GOOD, BAD, LIT]
    for t_s, seen in [(2.0, {LIT}), (7.0, {GOOD, LIT}), (10.0, {GOOD, BAD, LIT})]:
        picture = compose_picture(frame(t_s), BOX.columns(), [], turns)
        top = picture[HEADER_PX : HEADER_PX + TASKS_PX]
        assert {colour for colour in verdicts if places_of(colour, top)[0].size} == seen
    assert turns[1].outcome_at(4.0) == "waiting"
    assert turns[0].outcome_at(10.0) == "done in 4.9 s"
    assert turns[2].outcome_at(12.5) == "not judged"


def test_tick_before_the_first_measurement_has_no_verdict_to_show():
    ticks = {"t_s": np.array([0.0, 0.1]), "outcome": np.array([NOT_ASKED, Outcome.HOLD])}
    early, late = (compose_picture(frame(t_s), ticks, [], TURNS) for t_s in (0.05, 0.15))
    assert not np.array_equal(early, late)


def test_film_without_depth_has_no_grid():
    columns = BOX.columns()
    plain = compose_picture(frame(1.0), columns, [call(0, 0.5, None)], TURNS)
    grid = compose_picture(frame(1.0), columns, [call(0, 0.5, np.arange(100))], TURNS)
    assert plain.shape[1] < grid.shape[1]


def test_camera_that_changes_its_size_does_not_break_the_film(tmp_path):
    av = pytest.importorskip("av")
    frames = [frame(0.1), frame(0.2, width=426), RecordedFrame(0.3, (None, frame(0.3).pictures[1]))]
    write_video(tmp_path / "v.mp4", frames, BOX, [], TURNS)
    with av.open(str(tmp_path / "v.mp4")) as film:
        assert len(list(film.decode(video=0))) == 3


def test_film_shows_pictures_at_the_times_they_were_taken(tmp_path):
    av = pytest.importorskip("av")
    write_video(tmp_path / "v.mp4", [frame(t) for t in (7.0, 7.1, 9.5)], BOX, [], TURNS)
    with av.open(str(tmp_path / "v.mp4")) as film:
        times = [picture.time for picture in film.decode(video=0)]
    assert times == pytest.approx([0.0, 0.1, 2.5], abs=0.002)


def test_a_recorder_that_was_late_does_not_take_two_pictures_at_once():
    slow = iter([0.3])  # of the first look at the camera, three periods

    def latest():
        time.sleep(next(slow, 0.0))

    recorder = Recorder()
    recorder.start([SimpleNamespace(latest=latest)])
    until = time.monotonic() + 20.0
    while len(recorder.frames) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    recorder.stop()
    taken_s = [frame.t_s for frame in recorder.frames]
    assert len(taken_s) >= 4
    assert min(np.diff(taken_s)) > 0.9 / RECORD_HZ


def test_recorder_samples_until_it_is_stopped():
    recorder = Recorder()
    recorder.start([SimpleNamespace(latest=lambda: None)])
    until = time.monotonic() + 20.0
    while len(recorder.frames) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    recorder.stop()
    assert len(recorder.frames) >= 3
    assert not recorder._thread.is_alive()


def test_recorder_scales_pictures_down_and_counts_time():
    image = np.zeros((480, 640, 3), np.uint8)
    camera = SimpleNamespace(latest=lambda: SimpleNamespace(image=image))
    recorder = Recorder(clock=lambda: 5.0)
    recorder._cameras = [camera, SimpleNamespace(latest=lambda: None)]
    recorder._sample()
    kept = recorder.frames[0]
    assert kept.t_s == 5.0
    assert kept.pictures[1] is None
    assert len(kept.pictures[0]) < 20_000


def test_recorder_that_was_never_started_stops_at_once():
    Recorder().stop()
