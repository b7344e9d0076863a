import multiprocessing
import time

import numpy as np
import pytest

from edge.frame_file import MAGIC, FrameFile, FrameFileError


def test_newest_frame_comes_back_with_its_time_and_index(tmp_path):
    writer = FrameFile.create(tmp_path / "front.frame", 4, 6)
    reader = FrameFile.open(tmp_path / "front.frame")
    assert reader.latest() is None
    assert reader.newest_index() is None
    for index in range(5):
        image = np.full((4, 6, 3), index, np.uint8)
        assert writer.publish(image, 10.0 + index) == index
        seen, t_s, seen_index = reader.latest()
        assert seen_index == index
        assert t_s == 10.0 + index
        np.testing.assert_array_equal(seen, image)


def test_returned_image_is_the_readers_own(tmp_path):
    writer = FrameFile.create(tmp_path / "a.frame", 2, 2)
    writer.publish(np.zeros((2, 2, 3), np.uint8), 0.0)
    image, _, _ = writer.latest()
    image[:] = 9
    assert writer.latest()[0].max() == 0


def test_frame_being_written_is_not_returned(tmp_path):
    writer = FrameFile.create(tmp_path / "a.frame", 2, 2)
    writer.publish(np.zeros((2, 2, 3), np.uint8), 0.0)
    writer._slots[0][0]["sequence"][0] = 5
    assert writer.latest() is None


def test_frame_whose_pixels_do_not_match_its_checksum_is_not_returned(tmp_path):
    writer = FrameFile.create(tmp_path / "a.frame", 2, 2)
    writer.publish(np.zeros((2, 2, 3), np.uint8), 0.0)
    writer._slots[0][1][0, 0, 0] = 1
    assert writer.latest() is None


def test_image_of_another_size_is_refused(tmp_path):
    writer = FrameFile.create(tmp_path / "a.frame", 2, 2)
    with pytest.raises(FrameFileError, match=r"\(2, 3, 3\) uint8, the file holds \(2, 2, 3\)"):
        writer.publish(np.zeros((2, 3, 3), np.uint8), 0.0)
    with pytest.raises(FrameFileError, match="float32"):
        writer.publish(np.zeros((2, 2, 3), np.float32), 0.0)


@pytest.mark.parametrize(("height", "width"), [(0, 4), (4, 0), (-1, 4), (4, 99999)])
def test_impossible_size_is_refused_and_leaves_no_file(tmp_path, height, width):
    with pytest.raises(FrameFileError, match="each side must be"):
        FrameFile.create(tmp_path / "a.frame", height, width)
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_are_refused_by_name(tmp_path):
    with pytest.raises(FrameFileError, match=r"absent.frame: cannot open"):
        FrameFile.open(tmp_path / "absent.frame")
    (tmp_path / "short.frame").write_bytes(b"x")
    with pytest.raises(FrameFileError, match=r"short.frame: not a frame file"):
        FrameFile.open(tmp_path / "short.frame")
    FrameFile.create(tmp_path / "a.frame", 2, 2).close()
    whole = (tmp_path / "a.frame").read_bytes()
    (tmp_path / "cut.frame").write_bytes(whole[:-1])
    with pytest.raises(FrameFileError, match=r"cut.frame: .* bytes"):
        FrameFile.open(tmp_path / "cut.frame")
    assert whole.startswith(MAGIC)
    (tmp_path / "new.frame").write_bytes(whole[:8] + b"\x07" + whole[9:])
    with pytest.raises(FrameFileError, match="version 7, this program reads 1"):
        FrameFile.open(tmp_path / "new.frame")


def test_close_twice_is_harmless(tmp_path):
    writer = FrameFile.create(tmp_path / "a.frame", 2, 2)
    writer.close()
    writer.close()


def test_reader_in_another_process_never_sees_a_torn_frame(tmp_path):
    path = tmp_path / "front.frame"
    writer = FrameFile.create(path, 240, 320)
    context = multiprocessing.get_context("spawn")
    seen = context.Queue()
    child = context.Process(target=_read_until_the_end, args=(path, seen))
    child.start()
    deadline_s = time.monotonic() + 30.0
    index = 0
    while child.is_alive() and time.monotonic() < deadline_s:
        writer.publish(np.full((240, 320, 3), index % 251, np.uint8), float(index))
        index += 1
    child.join(1.0)
    frames, torn = seen.get(timeout=1.0)
    assert torn == 0
    assert frames == 50


def _read_until_the_end(path, seen):
    reader = FrameFile.open(path)
    frames = torn = 0
    last = -1
    while frames < 50:
        latest = reader.latest()
        if latest is None or latest[2] == last:
            continue
        image, t_s, last = latest
        torn += int(not (image == last % 251).all() or t_s != last)
        frames += 1
    seen.put((frames, torn))
