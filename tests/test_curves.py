"""molmoact-train curves: a chain of runs in one picture and one table."""

import json
import re

import pytest

from training.cli import main

pytest.importorskip("torch")


def write_run(path, steps, language, flow=0.0):
    path.mkdir()
    lines = [
        {"step": n + 1, "loss": 1.0, "language": language(n), "flow": flow, "step_s": 1.5}
        for n in range(steps)
    ]
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_table_has_minutes_and_the_last_twentieth(tmp_path, capsys):
    first = write_run(tmp_path / "first", 40, lambda n: 2.0 if n < 38 else 1.0)
    second = write_run(tmp_path / "second", 80, lambda n: 3.0, flow=0.25)
    out = tmp_path / "chain.png"
    assert main(["curves", str(out), first, second]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| first | 40 | 1.0 | 1 | - |",
        "| second | 80 | 2.0 | 3 | 0.25 |",
    ]
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (None, r"log\.jsonl: no such file; give the folder of a run"),
        ("", "no steps in it"),
        ('{"step": 1}\n', "not the log of a run"),
        ("[1]\n", "not the log of a run"),
        ("{\n", "not the log of a run"),
        ('{"step": 1, "step_s": 1.0}\n', "not the log of a run"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys, log, says):
    run = tmp_path / "run"
    run.mkdir()
    if log is not None:
        (run / "log.jsonl").write_text(log)
    assert main(["curves", str(tmp_path / "chain.png"), str(run)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error)
    assert not (tmp_path / "chain.png").exists()


def test_nothing_is_overwritten_and_no_run_counts_twice(tmp_path, capsys):
    run = write_run(tmp_path / "run", 3, lambda n: 1.0)
    taken = tmp_path / "chain.png"
    taken.write_text("mine")
    assert main(["curves", str(taken), run]) == 2
    assert taken.read_text() == "mine"
    assert main(["curves", str(tmp_path / "other.png"), run, run]) == 2
    assert "same name" in capsys.readouterr().err
