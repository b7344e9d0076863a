"""Asking, judging and comparing: what an answer is, how sure a share is, what a table says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")
scipy_stats = pytest.importorskip("scipy.stats")

from tiny_training import TINY

from training.cli import main
from training.datasets.question_source import Question
from training.errors import TrainingError
from training.init.init_checkpoint import init_checkpoint
from training.molmoer import answers as answering
from training.molmoer import rehearsal
from training.molmoer.answers import Answerer
from training.molmoer.points import points_text
from training.molmoer.rehearsal import (
    AT_ONCE,
    CONSTANT,
    STAGES,
    TableSettings,
    run_table,
    table_text,
)
from training.molmoer.scoring import Asked, Score, best_constant, read_asked, score
from training.trainer.recipe import read_recipe

RECIPES = Path(__file__).parents[1] / "training" / "recipes"
RADIUS = 40
SCORES = {"side": Score(1, 2), "all": Score(1, 2)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny") / "checkpoint"
    init_checkpoint(out, TINY, seed=0, dtype="fp32", max_shard_mib=100)
    return out


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Small sets of drawings and of text."""
    folder = tmp_path_factory.mktemp("sets")
    for kind in ("general", "text"):
        command = ["questions", str(folder / kind), "--kind", kind, "--train", "8", "--test", "6"]
        assert main([*command, "--height", "40", "--workers", "1"]) == 0
    return folder


def asked(answer, kind="side", radius=None):
    return Asked(Question((), "?", answer, kind), radius)


def test_case_spaces_and_a_full_stop_do_not_matter_and_words_do():
    assert asked("in front").is_right(" In  front.\n")
    assert not asked("in front").is_right("front")
    assert not asked("1").is_right("11")


def test_a_point_is_right_within_its_radius_and_wrong_without_one():
    truth = points_text([(0.4, 0.6)], "red cube")
    near = points_text([(0.42, 0.6)], "red cube")
    assert asked(truth, "pointing", RADIUS).is_right(near)
    assert not asked(truth, "pointing", RADIUS).is_right(points_text([(0.6, 0.6)], "red cube"))
    assert not asked(truth, "pointing", RADIUS).is_right("somewhere")


def test_answers_are_counted_by_kind():
    questions = [asked("left"), asked("right"), asked("2", "counting"), asked("3", "counting")]
    found = score(questions, ["left", "left", "2", "3"])
    assert found == {"counting": Score(2, 2), "side": Score(1, 2), "all": Score(3, 4)}


def test_the_best_constant_is_the_commonest_answer_or_the_best_placed_point():
    points = [points_text([(x, 0.5)], "cube") for x in (0.40, 0.45, 0.50, 0.9)]
    questions = [asked(answer) for answer in ("left", "left", "right")]
    questions += [asked(point, "pointing", 0) for point in points]
    found = best_constant(questions)
    assert found == {"pointing": Score(3, 4), "side": Score(2, 3), "all": Score(5, 7)}


@pytest.mark.parametrize(("right", "out_of"), [(0, 7), (3, 10), (50, 80), (12, 12)])
def test_intervals_are_wilson_s(right, out_of):
    expected = scipy_stats.binomtest(right, out_of).proportion_ci(0.95, method="wilson")
    assert Score(right, out_of).interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_an_answer_does_not_depend_on_what_else_is_asked(checkpoint, sets, monkeypatch):
    monkeypatch.setattr(answering, "MAX_TOKENS", 6)
    answerer = Answerer(checkpoint)
    mixed = [
        one.question for kind in ("general", "text") for one in read_asked(sets / kind / "test")
    ]
    together = answerer.answers(mixed)
    assert together == [answerer.answers([question])[0] for question in mixed]
    assert len(set(together)) > 1


def test_answers_are_those_of_a_forward_pass_without_a_cache(checkpoint, sets, monkeypatch):
    monkeypatch.setattr(answering, "MAX_TOKENS", 5)
    answerer = Answerer(checkpoint)
    (first, *_) = (one.question for one in read_asked(sets / "general" / "test"))
    said = answerer.answers([first])[0]
    assert said == greedy_without_cache(answerer, first, 5)


def greedy_without_cache(answerer, question, count):
    """Run the whole sequence through LeRobot's own forward pass for every token."""
    from training.datasets.question_source import prompt_text, read_picture
    from training.examples.example import Example

    pictures = tuple(read_picture(path) for path in question.images)
    text = prompt_text(question)
    example = Example(0, "question", pictures, text, "", None)
    inputs = answerer._collate([example]).model_inputs
    said = []
    with torch.inference_mode():
        for _ in range(count):
            token = answerer._model(**inputs, use_cache=False).logits[0, -1].argmax()
            said.append(int(token))
            for name, value in (("input_ids", token), ("attention_mask", 1), ("token_type_ids", 0)):
                more = torch.full((1, 1), int(value), dtype=inputs[name].dtype)
                inputs[name] = torch.cat([inputs[name], more], dim=1)
    return answerer._text(said)


class KnowsHalf:
    """Answers every second question as its set does."""

    def __init__(self, *_):
        self.count = 0

    def answers(self, questions):
        given = []
        for question in questions:
            given.append(question.answer if self.count % 2 == 0 else "no idea")
            self.count += 1
        return given


def test_evaluate_prints_shares_and_json_last(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answering, "Answerer", KnowsHalf)
    questions = sets / "text" / "test"
    command = ["evaluate", str(tmp_path), "--questions", str(questions), "--batch", "4"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split()[:4] == ["all", "3", "6", "50.0"]
    found = json.loads(lines[-1])
    assert found["kinds"]["all"]["accuracy"] == 0.5
    assert sum(one["asked"] for kind, one in found["kinds"].items() if kind != "all") == 6


def test_evaluate_refuses_what_is_no_checkpoint_or_no_set(checkpoint, sets, tmp_path, capsys):
    questions = sets / "text" / "test"
    assert main(["evaluate", str(tmp_path), "--questions", str(questions)]) == 2
    assert main(["evaluate", str(checkpoint), "--questions", str(tmp_path)]) == 2
    assert "no *.jsonl file" in capsys.readouterr().err


def test_the_table_has_every_stage_and_adds_up_steps():
    names = [*(stage.name for stage in STAGES), CONSTANT]
    scores = {
        name: {
            subject: {"side": Score(number, 10), "all": Score(number, 10)}
            for subject in ("embodied", "general", "text")
        }
        for number, name in enumerate(names)
    }
    steps = {"general": 100, "specialise": 50, "rehearse": 10, "joint": 60}
    table = table_text(scores, steps)
    assert re.search(r"\| specialise, then rehearse \| 160 \| 30 % ", table)
    assert re.search(r"\| joint, as many steps as both \| 160 \| 20 % ", table)
    assert "| embodied: side | 40 % | 0 % | 10 % | 30 % | 20 % |" in table


def settings(recipes, **changed):
    usual = {"recipes": recipes, "questions": None, "train": 8, "test": 4, "seed": 0}
    usual |= {"threads": 2, "changes": ("steps=99",), "limit": None}
    return TableSettings(**{**usual, **changed})


@pytest.fixture
def made(tmp_path):
    """Folders where question sets would be."""
    for subject in ("embodied", "general", "text"):
        for half in ("train", "test"):
            (tmp_path / "sets" / subject / half).mkdir(parents=True)
    return tmp_path / "sets"


@pytest.fixture
def runs(monkeypatch):
    """Note what would be run; every run leaves a checkpoint."""
    started = []

    class Run:
        returncode = 0

        def __init__(self, command, **_):
            started.append(command)
            Path(command[command.index("--out") + 1], "checkpoint").mkdir(parents=True)

        def poll(self):
            return 0

    monkeypatch.setattr(rehearsal.subprocess, "Popen", Run)
    monkeypatch.setattr(rehearsal, "_POLL_S", 0.0)
    monkeypatch.setattr(rehearsal, "evaluate", lambda *_, **__: (SCORES, 1.0))
    monkeypatch.setattr(rehearsal, "read_asked", lambda *_: [asked("left")])
    return started


def test_every_stage_goes_on_from_the_right_one_with_the_right_questions(runs, made, tmp_path):
    run_table(tmp_path / "out", settings(RECIPES / "nano", questions=made))
    assert len(runs) == len(STAGES) == sum(map(len, AT_ONCE))
    for command in runs:
        name = Path(command[command.index("--out") + 1]).name
        start = {"specialise": "general", "joint": "general", "rehearse": "specialise"}.get(name)
        said = [part for part in command if part.startswith("from=")]
        assert said == ([f"from={tmp_path}/out/{start}/checkpoint"] if start else [])
        assert "steps=99" in command
        assert f"data.text.questions={made}/text/train" in command
    assert json.loads((tmp_path / "out" / "table.json").read_text())["joint"]["steps"] == 99


def test_what_is_done_is_kept_and_what_was_cut_short_goes_on(runs, made, tmp_path):
    (tmp_path / "general" / "checkpoint").mkdir(parents=True)
    (tmp_path / "joint").mkdir()
    run_table(tmp_path, settings(RECIPES / "nano", questions=made))
    names = {Path(command[command.index("--out") + 1]).name: command for command in runs}
    assert set(names) == {"specialise", "joint", "rehearse"}
    assert "--resume" in names["joint"]
    assert "--resume" not in names["specialise"]
    with pytest.raises(TrainingError, match=r"table\.md already exists"):
        run_table(tmp_path, settings(RECIPES / "nano", questions=made))


def test_a_set_that_is_not_there_is_named_before_anything_runs(runs, made, tmp_path):
    (made / "text" / "test").rmdir()
    with pytest.raises(TrainingError, match="text/test: no such folder"):
        run_table(tmp_path / "out", settings(RECIPES / "nano", questions=made))
    assert not runs
    assert not (tmp_path / "out").exists()


def test_joint_training_takes_as_many_steps_as_both_stages():
    steps = {
        name: read_recipe(RECIPES / "nano" / f"{name}.yaml").steps
        for name in ("specialise", "rehearse", "joint")
    }
    assert steps["joint"] == steps["specialise"] + steps["rehearse"]


def test_the_full_recipes_have_the_published_figures():
    specialise = read_recipe(RECIPES / "full" / "specialise.yaml")
    rehearse = read_recipe(RECIPES / "full" / "rehearse.yaml")
    assert (specialise.steps, rehearse.steps) == (20_000, 1_500)
    assert specialise.mixture.shares["text"] == pytest.approx(0.08)
    shares = rehearse.mixture.shares
    assert shares["general"] == pytest.approx(0.42, abs=1e-4)
    embodied = [share for name, share in shares.items() if name not in ("general", "text")]
    assert np.sum(embodied) == pytest.approx(0.5, abs=1e-4)
    for recipe in (specialise, rehearse):
        rates = recipe.optimizer.rates
        assert (rates["vision"], rates["connector"], rates["decoder"]) == (5e-6, 5e-6, 1e-5)
        assert recipe.optimizer.warmup_steps == 200
