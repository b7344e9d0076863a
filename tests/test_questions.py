"""Every answer follows from what is drawn; nothing of the test half is in the train half."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow")

from training.cli import main
from training.datasets.dataset_files import DatasetError
from training.molmoer.drawings import COLOURS_RGB, draw_scene
from training.molmoer.points import MARGIN, is_hit, points_in, points_text
from training.molmoer.question import Split, phrase, split_of
from training.molmoer.scoring import read_asked
from training.molmoer.texts import text_scene


def drawn(kind, count, split=Split.TRAIN):
    """Collect `count` (picture, question) of a kind of drawing."""
    rng = np.random.default_rng(3)
    found = []
    while len(found) < count:
        scene = draw_scene(split, rng, 120)
        found += [(scene.pictures[0], one) for one in scene.questions if one.kind == kind]
    return found


def asked(kind, count):
    rng = np.random.default_rng(4)
    found = []
    while len(found) < count:
        (question,) = text_scene(Split.TRAIN, rng).questions
        if question.kind == kind:
            found.append(question)
    return found


def ink(picture):
    """Tell paper from what is drawn on it."""
    return np.abs(picture.astype(int) - picture[2, 2]).max(axis=2) > 60


def test_the_colour_is_that_of_the_drawn_pixels():
    for picture, question in drawn("colour", 20):
        seen = np.median(picture[ink(picture)], axis=0)
        nearest = min(COLOURS_RGB, key=lambda name: np.abs(seen - COLOURS_RGB[name]).sum())
        assert question.answer == nearest


def test_the_shape_fills_as_much_of_its_box_as_such_a_shape_does():
    share = {"square": 1.0, "circle": np.pi / 4, "triangle": 0.5, "cross": 0.51}
    for picture, question in drawn("shape", 20):
        rows, columns = np.nonzero(ink(picture))
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert len(rows) / box == pytest.approx(share[question.answer], abs=0.06)


def test_the_count_is_that_of_separate_blobs():
    for picture, question in drawn("drawn count", 20):
        blobs, labels = cv2.connectedComponents(ink(picture).astype(np.uint8))
        sizes = np.bincount(labels.ravel())[1:]
        assert question.answer == str(int((sizes > 20).sum())), blobs


def test_the_tallest_bar_is_that_of_the_highest_coloured_pixel():
    for picture, question in drawn("chart", 20):
        row, column = np.argwhere(ink(picture))[0]
        seen = picture[row + 3, column + 3].astype(int)
        nearest = min(COLOURS_RGB, key=lambda name: np.abs(seen - COLOURS_RGB[name]).sum())
        assert question.answer == nearest


def test_sums_sorting_copying_and_spelling_are_right():
    for question in asked("sum", 20):
        assert int(question.answer) == sum(map(int, re.findall(r"\d+", question.text)))
    for question in asked("sorting", 20):
        assert question.answer.split() == sorted(re.findall(r"\d", question.text))
    for question in asked("copying", 20):
        assert question.answer.split() == re.findall(r"\d", question.text)
    for question in asked("spelling", 20):
        assert question.answer.replace("-", "") in question.text


def test_no_wording_of_the_test_half_is_in_the_train_half():
    for scene in (lambda split, rng: draw_scene(split, rng, 40), text_scene):
        texts = {}
        for split in Split:
            rng = np.random.default_rng(0)
            texts[split] = {q.text for _ in range(400) for q in scene(split, rng).questions}
        assert texts[Split.TRAIN]
        assert not texts[Split.TRAIN] & texts[Split.TEST]


def test_every_sentence_is_asked_in_both_halves():
    rng = np.random.default_rng(0)
    for split in Split:
        said = {phrase(("A?", "B?"), ("", "Say. ", "Now. "), split, rng)[-2:] for _ in range(50)}
        assert said == {"A?", "B?"}


def test_a_content_is_of_the_same_half_whatever_is_drawn_before():
    halves = [split_of(f"layout {number}") for number in range(1000)]
    assert halves == [split_of(f"layout {number}") for number in range(1000)]
    assert 150 < halves.count(Split.TEST) < 250


def test_points_are_written_as_molmo2_writes_them():
    one = points_text([(0.308, 0.3051)], "red cube")
    assert one == '<points coords="1 1 308 305">red cube</points>'
    two = points_text([(0.1, 0.2), (0.3, 0.45)], "cubes")
    assert two == '<points coords="1 1 100 200 2 300 450">cubes</points>'
    assert points_in(two) == [(100, 200), (300, 450)]
    assert points_in('<points coords="1 2 100 200 1 300 450">cubes</points>') == []
    assert points_in('<points coords="1 1 007 999">bin</points>') == [(7, 999)]
    assert points_text([(1.0, -0.01)], "bin") == '<points coords="1 1 999 000">bin</points>'


def test_a_point_counts_up_to_the_radius_and_the_margin():
    truth = points_text([(0.5, 0.5)], "bin")
    edge = (500 + 40 + MARGIN) / 1000
    assert is_hit(points_text([(edge, 0.5)], "bin"), truth, 40)
    assert not is_hit(points_text([(edge + 0.001, 0.5)], "bin"), truth, 40)
    assert not is_hit("the bin", truth, 40)


def test_every_point_has_to_be_right_and_in_its_place():
    truth = points_text([(0.2, 0.2), (0.8, 0.8)], "cubes")
    assert is_hit(points_text([(0.21, 0.2), (0.8, 0.79)], "cubes"), truth, 40)
    assert not is_hit(points_text([(0.8, 0.8), (0.2, 0.2)], "cubes"), truth, 40)
    assert not is_hit(points_text([(0.2, 0.2)], "cubes"), truth, 40)


def test_the_command_writes_both_halves_and_the_reader_reads_them(tmp_path, capsys):
    out = tmp_path / "general"
    command = ["questions", str(out), "--kind", "general", "--train", "12", "--test", "5"]
    assert main([*command, "--seed", "7", "--height", "48", "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", "12", "5"]
    assert len(read_asked(out / "train")) == 12
    assert len(read_asked(out / "test")) == 5
    assert json.loads((out / "set.json").read_text())["seed"] == 7
    named = {path for one in read_asked(out / "train") for path in one.question.images}
    assert named == set((out / "train" / "pictures").iterdir())


def test_the_same_seed_makes_the_same_set(tmp_path):
    def lines(name, seed):
        command = ["questions", str(tmp_path / name), "--kind", "text", "--train", "40"]
        assert main([*command, "--test", "5", "--seed", seed, "--workers", "1"]) == 0
        return (tmp_path / name / "train" / "questions.jsonl").read_text()

    first = lines("a", "1")
    assert lines("b", "1") == first
    assert lines("c", "2") != first


def test_a_set_is_never_written_over(tmp_path, capsys):
    (tmp_path / "text").mkdir()
    assert main(["questions", str(tmp_path / "text"), "--kind", "text"]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"radius": "large"}, "line 2: radius is 'large'"),
        ({"radius": 40}, "a question with a radius has the answer 'a cat'"),
        ({"answer": ""}, "line 2: answer is ''"),
        ({"images": ["gone.jpg"]}, "which is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path, more, complaint):
    line = {"images": [], "question": "What is it?", "answer": "a cat", "kind": "own"}
    text = "\n".join(json.dumps(one) for one in (line, {**line, **more}))
    (tmp_path / "mine.jsonl").write_text(text)
    with pytest.raises(DatasetError, match=re.escape(complaint)):
        read_asked(tmp_path)


def test_a_limit_takes_questions_from_the_whole_folder(tmp_path):
    lines = [
        {"images": [], "question": f"{n}?", "answer": str(n), "kind": "own"} for n in range(10)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [one.question.answer for one in read_asked(tmp_path, 3)] == ["0", "3", "6"]
