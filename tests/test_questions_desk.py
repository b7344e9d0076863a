"""Answers about the simulated desk agree with pixels, projections and kinematics."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "egl")
pytest.importorskip("mujoco")

from edge.prompt import robot_text
from sim.gl import GlError, ensure_gl
from sim.reach import joints_for_tip_deg
from sim.tasks import HELD_OUT_PHRASINGS, KINDS, PHRASINGS
from sim.variation import PLAIN_COLOURS
from training.datasets.embodiment import load_embodiment
from training.molmoer import desk_questions
from training.molmoer.desk import BIN, COLOURS_RGB, Desk, Place
from training.molmoer.desk_questions import (
    MAP_EDGES,
    NOUNS,
    ROBOT_PROMPT,
    Moment,
    desk_scene,
    list_scene,
    map_scene,
    mention_scene,
)
from training.molmoer.episode_questions import episode_scene
from training.molmoer.layouts import draw_layout, is_plain, is_within_reach, pose_freely
from training.molmoer.points import points_in
from training.molmoer.question import Split

SCENES = 25


@pytest.fixture(scope="module")
def desk():
    try:
        ensure_gl()
    except GlError as error:
        pytest.skip(str(error))
    made = Desk(120)
    yield made
    made.close()


@pytest.fixture(scope="module")
def moments(desk):
    """Some layouts, each with its picture and every question that is asked of it."""
    rng = np.random.default_rng(0)
    found = []
    while len(found) < SCENES:
        places = draw_layout(Split.TRAIN, rng)
        desk.lay_out(places)
        pose_freely(desk, rng)
        desk.settle()
        if not is_plain(desk):
            continue
        moment = Moment(desk, places)
        questions = [ask(moment, Split.TRAIN, rng) for ask in desk_questions._ASKERS]
        pixels = {
            name: desk.seen_from_front(np.array([place.x_m, place.y_m, 0.014]))[0]
            for name, place in moment.places.items()
        }
        pixels[BIN] = desk.seen_from_front(np.array([0.19, -0.20, 0.02]))[0]
        picture = desk.picture("front").copy()
        found.append((moment, picture, pixels, [q for q in questions if q is not None]))
    return found


def of_kind(moments, *kinds):
    rows = [(m, p, x, q) for m, p, x, questions in moments for q in questions if q.kind in kinds]
    assert len(rows) > SCENES // 4
    return rows


def named(text, moment):
    """List the objects of a question in order of their mention."""
    names = sorted((*moment.cubes, BIN), key=lambda name: text.find(name))
    return [name for name in names if name in text]


def test_what_is_pointed_to_has_the_colour_that_is_asked_for(moments):
    for _, picture, pixels, question in of_kind(moments, "pointing"):
        name = re.search(r">(.*)<", question.answer)[1]
        ((x, y),) = points_in(question.answer)
        assert np.hypot(x / 1000 - pixels[name][0], y / 1000 - pixels[name][1]) < 0.03
        if name != BIN:
            seen = picture[int(y / 1000 * 120), int(x / 1000 * 160)] / 255
            meant = np.array(COLOURS_RGB[name.removesuffix(" cube")])
            cosine = seen @ meant / np.linalg.norm(seen) / np.linalg.norm(meant)
            assert cosine > 0.93, question


def test_places_follow_the_words_with_which_a_robots_prompt_names_a_cube(desk):
    rng = np.random.default_rng(2)
    for split, wordings in ((Split.TRAIN, PHRASINGS), (Split.TEST, HELD_OUT_PHRASINGS)):
        known = {words for kind in KINDS for words in wordings[kind]}
        scene = mention_scene(desk, split, rng, 0.3)
        told = [{*question.text.split()} & {*PLAIN_COLOURS} for question in scene.questions]
        assert sorted(colour for (colour,) in told) == sorted(PLAIN_COLOURS)
        for question, (colour,) in zip(scene.questions, told, strict=True):
            robot = load_embodiment("so101")
            prompts = [
                robot_text(
                    words.format(colour=colour),
                    "<state_start><state_end>",
                    robot.setup,
                    robot.control,
                    [],
                    False,
                    ROBOT_PROMPT,
                )
                for words in known
            ]
            begun = re.sub(r"<state_\d+>", "", f"<|im_start|>user\n{question.text}")
            assert any(prompt.startswith(begun) for prompt in prompts), begun
            named = [colour, *re.findall(r"the (\w+) cube", question.answer)]
            places = re.findall(r" (\d) (\d), (?:(\d) (\d)|none)(?:,|$)", question.answer)
            assert len(places) == len(named) == len(PLAIN_COLOURS)
            for name, (row, column, *of_wrist) in zip(named, places, strict=True):
                assert share_of_cell(scene.pictures[0], int(row), int(column), name) > 0.02
                if all(of_wrist):
                    around = largest_share_around(scene.pictures[1], *map(int, of_wrist), name)
                    assert around > 0.05


def test_a_cube_has_a_place_in_the_wrists_picture_when_it_is_well_seen_there(desk):
    rng = np.random.default_rng(4)
    said = {True: 0, False: 0}
    for _ in range(12):
        scene = mention_scene(desk, Split.TRAIN, rng, 1.0)
        for question in scene.questions:
            (colour,) = {*question.text.split()} & {*PLAIN_COLOURS}
            shares = [
                share_of_cell(scene.pictures[1], row, column, colour)
                for row in range(7)
                for column in range(7)
            ]
            has_place = re.match(r" \d \d, \d", question.answer) is not None
            said[has_place] += 1
            # The edge cells are half as wide, and a cube's shaded side is of another colour.
            assert sum(shares) > 0.1 if has_place else sum(shares) < 0.7
    assert min(said.values()) >= 5


@pytest.mark.parametrize(("at_once", "ends_there"), [(1.0, {True}), (0.0, {False})])
def test_a_share_of_places_follows_at_once(desk, at_once, ends_there):
    rng = np.random.default_rng(3)
    asked = [q for _ in range(4) for q in mention_scene(desk, Split.TRAIN, rng, at_once).questions]
    last = {question.text.split()[-1] for question in asked}
    assert {word in (*PLAIN_COLOURS, *NOUNS) for word in last} == ends_there


def test_a_maps_digits_stand_where_their_colours_are_seen(desk, monkeypatch):
    monkeypatch.setattr(desk_questions, "WRIST_SHARE", 0.0)
    rng = np.random.default_rng(5)
    for _ in range(40):  # in some two cubes are side by side
        scene = map_scene(desk, Split.TRAIN, rng)
        rows = scene.questions[0].answer.split()
        assert [len(row) for row in rows] == [7] * 7
        assert sorted("".join(rows).replace("0", "")) == ["1", "2", "3"]
        for digit, colour in enumerate(PLAIN_COLOURS, 1):
            row = next(number for number, cells in enumerate(rows) if str(digit) in cells)
            assert share_of_cell(scene.pictures[0], row, rows[row].index(str(digit)), colour) > 0.02


def test_a_map_of_the_wrists_picture_has_digits_in_all_cells_that_a_cube_fills(desk, monkeypatch):
    monkeypatch.setattr(desk_questions, "WRIST_SHARE", 1.0)
    rng = np.random.default_rng(6)
    seen = set()
    for _ in range(20):
        scene = map_scene(desk, Split.TRAIN, rng)
        rows = scene.questions[0].answer.split()
        assert [len(row) for row in rows] == [7] * 7
        seen |= {*"".join(rows)}
        for row, cells in enumerate(rows):
            for column, digit in enumerate(cells):
                shares = [
                    share_of_cell(scene.pictures[0], row, column, colour)
                    for colour in PLAIN_COLOURS
                ]
                if digit == "0":
                    assert max(shares) < 0.35
                else:
                    assert shares[int(digit) - 1] > 0.03
    assert seen == {"0", "1", "2", "3"}


def test_a_lists_cells_are_where_their_colours_are_seen(desk):
    rng = np.random.default_rng(7)
    orders = set()
    for _ in range(20):
        scene = list_scene(desk, Split.TRAIN, rng)
        by_row, by_colour = (question.answer.split(", ") for question in scene.questions)
        assert by_row == sorted(by_row)
        cells = [entry.rsplit(" ", 1) for entry in by_row]
        assert sorted(by_colour) == sorted(f"{colour} {cell}" for cell, colour in cells)
        orders.add(tuple(entry.split()[0] for entry in by_colour))
        assert {colour for _, colour in cells} == {*PLAIN_COLOURS}
        for cell, colour in cells:
            row, column = map(int, cell.split())
            assert share_of_cell(scene.pictures[0], row, column, colour) > 0.02
    assert len(orders) == 6


def share_of_cell(picture, row, column, colour):
    """Give the share of a cell's pixels that have a cube's colour."""
    height, width, _ = picture.shape
    (top, bottom), (left, right) = (
        [round(MAP_EDGES[cell] * size), round(MAP_EDGES[cell + 1] * size)]
        for cell, size in ((row, height), (column, width))
    )
    cell = picture[top:bottom, left:right].reshape(-1, 3).astype(float)
    meant = np.array(COLOURS_RGB[colour])
    alike = cell @ meant / (np.linalg.norm(cell, axis=1) + 1) / np.linalg.norm(meant)
    return (alike > 0.93).mean()


def largest_share_around(picture, row, column, colour):
    """Give the largest share of a colour in a cell and those beside it: a middle may be empty."""
    return max(
        share_of_cell(picture, r, c, colour)
        for r in range(max(0, row - 1), min(7, row + 2))
        for c in range(max(0, column - 1), min(7, column + 2))
    )


@pytest.mark.parametrize("scene_of", [map_scene, list_scene])
def test_halves_of_maps_and_of_lists_share_no_wording(desk, scene_of):
    rng = np.random.default_rng(1)
    wordings = {}
    for split in Split:
        asked = [q for _ in range(3) for q in scene_of(desk, split, rng).questions]
        wordings[split] = {question.text for question in asked}
    assert not wordings[Split.TRAIN] & wordings[Split.TEST]


def test_left_and_right_are_those_of_the_projected_pixels(moments):
    for moment, _, pixels, question in of_kind(moments, "side"):
        a, b = named(question.text, moment)
        assert question.answer == ("left" if pixels[a][0] < pixels[b][0] else "right")


def test_in_front_is_nearer_to_the_front_camera(moments):
    for moment, _, pixels, question in of_kind(moments, "depth order"):
        a, b = named(question.text, moment)
        assert question.answer == ("in front" if pixels[a][2] < pixels[b][2] else "behind")


def test_nearer_and_farther_are_by_distance(moments):
    for moment, _, pixels, question in of_kind(moments, "nearer", "farther"):
        a, b = named(question.text, moment)
        if "gripper" in question.text:
            gap = [np.linalg.norm(moment.centres_m[name] - moment.tip_m) for name in (a, b)]
        else:
            gap = [pixels[name][2] for name in (a, b)]
        first = (gap[0] < gap[1]) == (question.kind == "nearer")
        assert question.answer == (a if first else b)


def test_cubes_are_counted(moments):
    for moment, _, _, question in of_kind(moments, "counting"):
        assert question.answer == str(len(moment.places))


def test_reach_is_that_of_the_inverse_kinematics(moments):
    for moment, _, _, question in of_kind(moments, "reach"):
        (name,) = named(question.text, moment)
        place = moment.places[name]
        spots = [np.array([place.x_m, place.y_m, z]) for z in (0.014, 0.09)]
        reached = all(joints_for_tip_deg(spot, 80.0) is not None for spot in spots)
        assert question.answer == ("yes" if reached else "no")


def test_near_the_border_of_its_reach_nothing_is_asked(moments):
    del moments
    far = [is_within_reach(Place("red", 0.1 + 0.005 * n, 0.0, 0.0)) for n in range(60)]
    assert {True, False, None} == set(far)
    assert None in far[far.index(True) : len(far) - far[::-1].index(True) + 6]


def test_the_named_camera_is_where_the_answer_says(moments):
    for _, _, _, question in of_kind(moments, "view"):
        shown = question.pictures[int(question.answer) - 1]
        assert ("front", "wrist")[shown] in question.text


def test_a_desk_gives_two_pictures_and_most_kinds_of_question(desk):
    scene = desk_scene(desk, Split.TEST, np.random.default_rng(1))
    assert [picture.shape for picture in scene.pictures] == [(120, 160, 3)] * 2
    assert {"pointing", "counting", "view"} <= {question.kind for question in scene.questions}


def test_first_and_last_are_by_stage_and_stages_differ(desk):
    rng = np.random.default_rng(2)
    for _ in range(4):
        scene = episode_scene(desk, Split.TRAIN, rng)
        for before, after in zip(scene.pictures, scene.pictures[1:], strict=False):
            assert (np.abs(before.astype(int) - after).max(axis=2) > 40).mean() > 0.0008
        for question in scene.questions:
            wanted = (min if "first" in question.text else max)(question.pictures)
            assert question.pictures[int(question.answer) - 1] == wanted


def test_a_varied_desk_still_knows_where_things_are_in_its_picture():
    varied = Desk(120, varied=True)
    rng = np.random.default_rng(5)
    pictures, fronts = [], []
    for _ in range(4):
        varied.dress(rng)
        varied.lay_out((Place("red", 0.25, 0.05, 0.0),))
        varied.pose(None)
        varied.settle()
        seen = varied.seen_from_front(varied.centres_m()["red cube"])[0]
        outline = varied.outlines()["red cube"]
        assert np.hypot(outline.centre[0] - seen[0], outline.centre[1] - seen[1]) < 0.03
        pictures.append(varied.picture("front").astype(int))
        fronts.append(seen[:2])
    varied.close()
    assert np.abs(pictures[0] - pictures[1]).mean() > 3
    assert np.ptp(fronts, axis=0).max() > 0.01


def test_no_layout_of_the_test_half_is_in_the_train_half():
    rng = np.random.default_rng(0)
    seen = {}
    for split in Split:
        layouts = [draw_layout(split, rng) for _ in range(150)]
        seen[split] = {
            tuple(sorted((p.colour, round(100 * p.x_m), round(100 * p.y_m)) for p in places))
            for places in layouts
        }
    assert not seen[Split.TRAIN] & seen[Split.TEST]
