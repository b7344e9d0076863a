"""Instructions in words, judged one after the other in a world that somebody else drives."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from sim.instructions import task_from_instruction
from sim.judged_tasks import LOOK_INTERVAL_S, InstructionStream, JudgedTasks
from sim.layout import BIN_M, CUBE_HALF_M, mark_of
from sim.model import World
from sim.tasks import HELD_OUT_PHRASINGS, KINDS, PHRASINGS, Task
from sim.variation import PLAIN_COLOURS

SEED = 3
UNTIL_REST_S = 0.5


class Court:
    """A judged world; `go_on` lets time pass for both."""

    def __init__(self):
        self.said = []
        self.world = World(SEED)
        self.tasks = JudgedTasks(self.world, SEED, lambda line: self.said.append(json.loads(line)))
        self.now_s = 100.0

    def put(self, cube, x_m, y_m):
        self.world.data.joint(cube).qpos[:3] = [x_m, y_m, CUBE_HALF_M + 0.002]

    def go_on(self, seconds):
        import mujoco

        end_s = self.now_s + seconds
        while self.now_s < end_s:
            mujoco.mj_step(self.world.model, self.world.data)
            self.now_s += self.world.timestep_s
            self.tasks.look(self.now_s)

    def events(self):
        return [(event["event"], event["task"]) for event in self.said]


@pytest.mark.parametrize("kind", KINDS)
def test_every_phrasing_is_understood_for_every_colour(kind):
    for phrasing in (*PHRASINGS[kind], *HELD_OUT_PHRASINGS[kind]):
        for colour in PLAIN_COLOURS:
            words = phrasing.format(colour=colour)
            assert task_from_instruction(words, PLAIN_COLOURS) == Task(kind, colour)
    assert task_from_instruction(f"  {words.capitalize()}. ", PLAIN_COLOURS) == Task(kind, colour)


def test_other_words_and_absent_colours_are_no_task():
    assert task_from_instruction("pick up the red cube", PLAIN_COLOURS) is None
    assert task_from_instruction("touch the yellow cube", PLAIN_COLOURS) is None


def test_a_cube_that_comes_to_lie_in_the_bin_is_told_once_with_its_time():
    court = Court()
    court.tasks.begin(0, "put the red cube in the bin", court.now_s)
    court.go_on(0.2)
    assert court.events() == [("judged", 0)]
    court.put("red_cube", *BIN_M)
    court.go_on(UNTIL_REST_S)
    assert court.events() == [("judged", 0), ("done", 0)]
    assert court.said[0]["t_s"] == 100.0
    assert (court.said[0]["kind"], court.said[0]["colour"]) == ("put_in_bin", "red")
    assert 100.2 < court.said[1]["t_s"] < 100.2 + UNTIL_REST_S


def test_the_mark_lies_on_the_desk_while_a_push_is_judged():
    court = Court()
    court.tasks.begin(0, "touch the green cube", court.now_s)
    assert court.tasks.mark_m is None
    court.tasks.begin(1, "push the green cube to the mark", court.now_s)
    np.testing.assert_allclose(court.tasks.mark_m, mark_of(SEED, 1), atol=1e-3)
    court.put("green_cube", *court.tasks.mark_m)
    court.go_on(UNTIL_REST_S)
    assert court.events()[-1] == ("done", 1)
    court.tasks.begin(2, "touch the green cube", court.now_s)
    assert court.tasks.mark_m is None


def test_a_moved_bystander_spoils_a_task_for_good():
    court = Court()
    court.tasks.begin(0, "put the red cube in the bin", court.now_s)
    court.go_on(2 * LOOK_INTERVAL_S)
    court.put("blue_cube", 0.25, 0.05)
    court.put("red_cube", *BIN_M)
    court.go_on(UNTIL_REST_S)
    assert court.events() == [("judged", 0), ("spoiled", 0)]


def test_what_cannot_be_judged_is_said_with_its_reason(monkeypatch):
    court = Court()
    court.tasks.begin(4, "dance", court.now_s)
    assert court.said[-1]["why"] == "no task of this desk; sim/tasks.py has the words for those"
    monkeypatch.setattr("sim.judged_tasks.sample_mark", lambda *_: None)
    court.tasks.begin(5, "push the red cube to the mark", court.now_s)
    assert court.said[-1]["why"] == "no free way to push the red cube; choose another --seed"
    court.go_on(0.1)
    assert court.events() == [("not judged", 4), ("not judged", 5)]


def test_instructions_are_read_line_by_line_without_waiting():
    reader, writer = os.pipe()
    stream = InstructionStream(reader)
    assert stream.newest() is None
    os.write(writer, b'{"task": 0, "instruction": "touch the red cube"}\n{"task": 1, "instr')
    assert stream.newest() == (0, "touch the red cube")
    assert stream.newest() is None
    os.write(writer, b'uction": "a"}\nnot json\n[1]\n')
    assert stream.newest() == (1, "a")
    os.close(writer)
    assert stream.newest() is None
    os.close(reader)
    assert stream.newest() is None
