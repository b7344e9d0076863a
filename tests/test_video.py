from types import SimpleNamespace

import numpy as np
import pytest

from edge.black_box import BlackBox
from edge.recording import RecordedFrame, Recorder, _jpeg
from edge.video import LIT, compose_picture, write_video

REPORT = {"card": {"task": "pick up the red cube"}}
BOX = BlackBox(10, ("shoulder_pan",), 0)


def call(number, ended_s, codes):
    return SimpleNamespace(
        number=number, started_s=ended_s - 0.1, ended_s=ended_s, depth_codes=codes, depth_passes=3
    )


def frame(t_s, width=320):
    picture = _jpeg(np.full((240, width, 3), (200, 30, 30), np.uint8))
    return RecordedFrame(t_s, (picture, picture))


def lit_pixels(picture):
    return int(np.all(picture == LIT, axis=2).sum())


def test_cells_whose_code_moved_are_lit_in_the_calls_order():
    codes = np.arange(100)
    moved = codes.copy()
    moved[42] = 7
    calls = [call(0, 1.0, codes), call(1, 2.0, moved)]
    columns = BOX.columns()
    before = compose_picture(frame(1.5), columns, calls, REPORT)
    after = compose_picture(frame(2.5), columns, calls, REPORT)
    assert lit_pixels(before) == 0
    assert lit_pixels(after) > 0
    rows, places = np.nonzero(np.all(after == LIT, axis=2))
    side = 240 // 10
    assert (rows.max() - rows.min()) < side
    assert (places.max() - places.min()) < side
    assert before.shape == after.shape


def test_film_without_depth_has_no_grid():
    columns = BOX.columns()
    plain = compose_picture(frame(1.0), columns, [call(0, 0.5, None)], REPORT)
    grid = compose_picture(frame(1.0), columns, [call(0, 0.5, np.arange(100))], REPORT)
    assert plain.shape[1] < grid.shape[1]


def test_camera_that_changes_its_size_does_not_break_the_film(tmp_path):
    av = pytest.importorskip("av")
    frames = [frame(0.1), frame(0.2, width=426), RecordedFrame(0.3, (None, frame(0.3).pictures[1]))]
    write_video(tmp_path / "v.mp4", frames, BOX, [], REPORT)
    with av.open(str(tmp_path / "v.mp4")) as film:
        assert len(list(film.decode(video=0))) == 3


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
