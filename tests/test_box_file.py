import errno
import fcntl
import os
import random
import time
from datetime import datetime, timezone

import pytest
from recorded_run import record_run

import edge.box_file
from edge.black_box import BlackBoxError
from edge.board_profile import BlackBoxProfile
from edge.box_file import BoxFile, box_path
from edge.box_layout import CARD_BYTES, PAGE_BYTES
from edge.box_reader import read_box

NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def box():
    return record_run(seconds=1.0, capacity=40)


@pytest.fixture(scope="module")
def image(box):
    return bytes(box.whole())


def settings(folder, keep=3):
    return BlackBoxProfile(seconds=10.0, keep=keep, folder=folder)


def refuse_with(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


def test_file_appears_whole_under_its_name_and_nothing_else_stays(tmp_path, box, image):
    file = BoxFile(tmp_path / "run.box", len(image))
    assert not (tmp_path / "run.box").exists()
    file.write(box)
    assert (tmp_path / "run.box").read_bytes() == image
    assert [path.name for path in tmp_path.iterdir()] == ["run.box"]
    file.abandon()
    assert (tmp_path / "run.box").exists()


def test_space_is_taken_before_anything_is_written(tmp_path):
    file = BoxFile(tmp_path / "run.box", 3_000_000)
    part = next(tmp_path.glob(".run.box.*.part"))
    assert part.stat().st_blocks * 512 >= 3_000_000
    file.abandon()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_refused_in_one_line_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", refuse_with(errno.ENOSPC))
    with pytest.raises(BlackBoxError) as error:
        BoxFile(tmp_path / "run.box", 3_000_000)
    assert "no room for the black box of 3 MiB: No space left on device; free some" in str(
        error.value
    )
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_file_system_that_cannot_take_space_in_advance_is_written_full(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", refuse_with(errno.EOPNOTSUPP))
    BoxFile(tmp_path / "run.box", 3_000_000)
    assert next(tmp_path.glob(".run.box.*.part")).stat().st_size == 3_000_000


def test_file_system_without_links_gets_the_file_by_renaming(tmp_path, monkeypatch, box, image):
    monkeypatch.setattr(os, "link", refuse_with(errno.EPERM))
    BoxFile(tmp_path / "run.box", len(image)).write(box)
    assert (tmp_path / "run.box").read_bytes() == image


@pytest.mark.parametrize("links", [True, False])
def test_file_that_came_meanwhile_is_not_overwritten(tmp_path, monkeypatch, box, image, links):
    if not links:
        monkeypatch.setattr(os, "link", refuse_with(errno.EPERM))
    file = BoxFile(tmp_path / "run.box", len(image))
    (tmp_path / "run.box").write_text("somebody else's")
    with pytest.raises(BlackBoxError, match=r"run\.box: cannot write the black box"):
        file.write(box)
    assert (tmp_path / "run.box").read_text() == "somebody else's"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(BlackBoxError, match=r"run.box: already exists; remove it"):
        BoxFile(tmp_path / "run.box", len(image))


def test_folder_that_is_absent_or_closed_is_refused(tmp_path):
    with pytest.raises(BlackBoxError, match=r"cannot make the black box .*choose another place"):
        BoxFile(tmp_path / "absent" / "run.box", 100)
    (tmp_path / "file").write_text("")
    with pytest.raises(BlackBoxError, match=r"no folder for the black box: .*--black-box FILE"):
        box_path(settings(tmp_path / "file"))


def test_boxes_are_dated_and_the_oldest_make_room(tmp_path):
    folder = tmp_path / "boxes"
    for hour in range(5):
        box_path(settings(folder), NOON.replace(hour=hour)).write_text("")
    assert sorted(path.name for path in folder.iterdir()) == [
        f"molmoact-edge-20260102T0{hour}0000Z.box" for hour in (2, 3, 4)
    ]


def test_two_runs_of_one_second_and_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "mine.box").write_text("")
    first = box_path(settings(tmp_path), NOON)
    BoxFile(first, 100)
    second = box_path(settings(tmp_path), NOON)
    assert (first.name, second.name) == (
        "molmoact-edge-20260102T120000Z.box",
        "molmoact-edge-20260102T120000Z-2.box",
    )
    box_path(settings(tmp_path, keep=1), NOON)
    assert (tmp_path / "mine.box").exists()


def test_space_of_a_run_that_lost_power_is_given_back_later(tmp_path):
    part = tmp_path / ".molmoact-edge-20260101T120000Z.box.77.part"
    part.write_text("")
    box_path(settings(tmp_path), NOON)
    assert part.exists()
    old_s = time.time() - 2 * edge.box_file.LEFT_BEHIND_S
    os.utime(part, (old_s, old_s))
    with part.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a run that goes on for days
        box_path(settings(tmp_path), NOON)
        assert part.exists()
    box_path(settings(tmp_path), NOON)
    assert not part.exists()


def test_default_folder_follows_the_xdg_rules(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert box_path(settings(None)).parent == tmp_path / "state" / "molmoact-edge"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert box_path(settings(None)).parent == tmp_path / "home/.local/state/molmoact-edge"


def test_file_cut_anywhere_is_refused_in_one_line(tmp_path, image):
    path = tmp_path / "run.box"
    for length in (0, 7, 100, PAGE_BYTES, PAGE_BYTES + 50, PAGE_BYTES + CARD_BYTES, len(image) - 1):
        path.write_bytes(image[:length])
        with pytest.raises(BlackBoxError) as error:
            read_box(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_foreign_file_folder_and_absent_file_are_named(tmp_path):
    (tmp_path / "text").write_text("no black box " * 1000)
    with pytest.raises(BlackBoxError, match="text: not a black box of molmoact-edge"):
        read_box(tmp_path / "text")
    with pytest.raises(BlackBoxError, match="absent: cannot be read: No such file"):
        read_box(tmp_path / "absent")
    with pytest.raises(BlackBoxError, match="cannot be read: Is a directory"):
        read_box(tmp_path)


def test_other_version_is_named(tmp_path, image):
    data = bytearray(image)
    data[8] = 9
    (tmp_path / "run.box").write_bytes(data)
    with pytest.raises(BlackBoxError, match="black box version 9, this program reads 2"):
        read_box(tmp_path / "run.box")


def refusal(path):
    """The line with which a file is refused, None when it is read."""
    try:
        read_box(path)
    except BlackBoxError as error:
        return str(error)
    return None


def test_damage_is_named_or_harmless_but_never_a_traceback(tmp_path, box, image):
    path, rng = tmp_path / "run.box", random.Random(7)
    rows = box.layout.rows_offset
    places = [rng.randrange(PAGE_BYTES) for _ in range(60)]
    places += [rng.randrange(PAGE_BYTES, PAGE_BYTES + 3000) for _ in range(20)]
    places += [rng.randrange(rows, rows + 30 * box.layout.row.itemsize) for _ in range(40)]
    lines = {}
    for place in places:
        data = bytearray(image)
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        lines[place] = refusal(path)
    # What is read in spite of it was a counter, or a letter in a text of the header.
    assert all(place < PAGE_BYTES for place, line in lines.items() if line is None)
    assert not any("\n" in line for line in lines.values() if line)
