import pytest

from edge.task_turns import DONE, JUDGED, NOT_JUDGED, SPOILED, Ruling, TaskTurns

TASKS = ("touch the red cube", "put the blue cube in the bin")


class Court:
    """Says what the test put into `found`, once."""

    def __init__(self):
        self.asked, self.found = [], []

    def judge(self, number, task):
        self.asked.append(task)

    def rulings(self):
        found, self.found = self.found, []
        return found


class Rig:
    def __init__(self, tasks=TASKS, task_s=20.0, judge=None):
        self.asked, self.said = [], []
        self.turns = TaskTurns(tasks, task_s, judge, self.asked.append, self.said.append)

    def run(self, until_s, from_s=0.0):
        """Look ten times a second; return what happened, and when it was over."""
        happened = []
        for tenth in range(round(from_s * 10), round(until_s * 10) + 1):
            happened += self.turns.look(100.0 + tenth / 10)
            if self.turns.over:
                return happened, tenth / 10
        return happened, None


def test_without_a_judge_tasks_end_by_time_and_nobody_says_that_they_were_done():
    rig = Rig(task_s=2.0)
    happened, over_s = rig.run(10.0)
    assert over_s == pytest.approx(4.0)
    assert rig.asked == list(TASKS)
    assert happened == rig.said
    assert happened[1] == "task 1 of 2: its 2 s are up"
    assert rig.turns.over == "all 2 tasks are over"
    assert [record["succeeded"] for record in rig.turns.records()] == [None, None]
    assert [record["began_s"] for record in rig.turns.records()] == [0.0, 2.0]


def test_done_task_makes_room_for_the_next_at_once():
    court = Court()
    rig = Rig(judge=court)
    rig.run(3.0)
    court.found = [Ruling(0, JUDGED, 100.1), Ruling(0, DONE, 102.95)]
    assert rig.run(3.2, 3.1)[0] == [
        "task 1 of 2 done after 3.0 s",
        "task 2 of 2: put the blue cube in the bin",
    ]
    assert court.asked == list(TASKS)
    first, second = rig.turns.records()
    assert (first["succeeded"], first["done_after_s"], first["ended"]) == (True, 2.95, "done")
    assert (second["succeeded"], second["ended"], second["seconds"]) == (None, None, None)


def test_done_in_the_last_moment_counts_and_afterwards_does_not():
    court = Court()
    rig = Rig(judge=court, task_s=2.0)
    rig.run(2.5)
    court.found = [
        Ruling(0, JUDGED, 100.1),
        Ruling(0, DONE, 101.99),
        Ruling(1, JUDGED, 102.1),
        Ruling(5, DONE, 102.2),
    ]
    rig.run(4.0, 2.6)
    court.found = [Ruling(1, DONE, 104.3)]
    rig.turns.end(104.2)
    first, second = rig.turns.records()
    assert (first["succeeded"], first["ended"]) == (True, "time up")
    assert (second["succeeded"], second["ended"]) == (False, "time up")
    assert rig.turns.over == "all 2 tasks are over, 1 of 2 done"


def test_what_is_found_before_the_end_of_the_run_counts():
    court = Court()
    rig = Rig(judge=court, task_s=None)
    rig.run(1.0)
    court.found = [Ruling(0, JUDGED, 100.1), Ruling(0, DONE, 101.0), Ruling(0, DONE, 101.2)]
    assert list(rig.turns.end(101.05)) == ["task 1 of 2 done after 1.0 s"]
    record = rig.turns.records()[0]
    assert (record["ended"], record["done_after_s"]) == ("run ended", 1.0)
    assert rig.run(5.0, 1.1) == ([], 1.1)
    assert list(rig.turns.end(106.0)) == []


def test_one_task_without_a_time_lasts_as_long_as_the_run_done_or_not():
    court = Court()
    rig = Rig(TASKS[:1], None, court)
    court.found = [Ruling(0, JUDGED, 100.05), Ruling(0, DONE, 100.5)]
    happened, over_s = rig.run(50.0)
    assert (happened, over_s) == (["task done after 0.5 s"], None)


def test_why_a_task_cannot_be_done_is_kept():
    court = Court()
    rig = Rig(judge=court)
    court.found = [Ruling(0, NOT_JUDGED, 100.1, "no task of this desk")]
    assert rig.run(1.0)[0][1] == "task 1 of 2 is not judged: no task of this desk"
    court.found = [Ruling(0, JUDGED, 101.1), Ruling(0, SPOILED, 101.2, "another cube was moved")]
    assert rig.run(2.0, 1.1)[0] == ["task 1 of 2 is spoiled: another cube was moved"]
    assert rig.turns.records()[0]["note"] == "another cube was moved"
    assert rig.turns.records()[0]["succeeded"] is False
