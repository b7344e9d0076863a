"""Rungs judged by trials: each beside full pace, downwards, and kept where a run finds them."""

import dataclasses
import json
from importlib import resources

import pytest
from ladder_settings import LADDER, LADDER_TEXT, with_ladder

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from benchmarks.cli import main as bench
from edge.gate_entry import FAILED, PASSED, Asked
from edge.ladder_profile import Rung
from edge.ladder_rungs import Acting, usable_rungs
from edge.manifest import read_manifest
from edge.pace import FULL_PACE
from edge.rung_verdicts import LADDER_NAME, read_verdicts
from quantization import ladder as judge
from quantization.cli import main
from quantization.errors import BuildError
from quantization.fidelity import closed_loop
from quantization.ladder import LadderSettings, judge_rungs
from sim.rollout import TrialResult, draw_trials

RUNGS = (
    Rung("draft_window", 8.0),
    Rung("depth_every_calls", 4.0),
    Rung("flow_steps", 5.0),
    Rung("flow_steps", 3.0),
    Rung("speed_share", 0.5),
    Rung("hold", 1.0),
)
PROFILE = with_ladder(dataclasses.replace(LADDER, rungs=RUNGS))
SETTINGS = LadderSettings(trials=60)


@pytest.fixture
def played(monkeypatch):
    """Play trials without a desk: all but the first are done, and none with fewer flow steps."""
    jobs = []

    def run_jobs(todo, workers):
        for job in todo:
            jobs.append(job)
            first = job.trial == draw_trials(1, 0)[0]
            done = not first and job.settings.pace.effort.flow_steps is None
            yield job, TrialResult(job.trial, done, job.trial.colour if done else None,
                                   5.0, 8, None, 0.0, 0.0, 0, "")  # fmt: skip

    monkeypatch.setattr(closed_loop, "run_jobs", run_jobs)
    monkeypatch.setattr(closed_loop, "require_desk", lambda: None)
    monkeypatch.setattr(judge, "require_desk", lambda: None)
    return jobs


def test_rungs_are_judged_downwards_on_top_of_those_that_passed(copy, played):
    lines = []
    verdicts = judge_rungs(copy, PROFILE, SETTINGS, lines.append)
    assert [verdict.verdict for verdict in verdicts] == [PASSED, PASSED, FAILED, PASSED]
    assert [verdict.settings for verdict in verdicts] == [
        {},
        {"depth_every_calls": 4.0},
        {"depth_every_calls": 4.0, "flow_steps": 5.0},
        {"depth_every_calls": 4.0, "speed_share": 0.5},
    ]
    paces = {job.settings.pace for job in played}
    assert FULL_PACE in paces
    assert len(paces) == 5
    assert len(played) == 5 * 60  # full pace is tried once for all rungs
    assert all(job.settings.replan_s == pytest.approx(0.2) for job in played)
    assert verdicts[2].checks["success_drop_points"].value > 50
    assert lines[2].startswith("rung flow_steps 5: failed: success_drop_points")
    assert lines[3] == (
        "rung flow_steps 3: not judged: this bundle was built for 10 flow steps and can run 1, 2, "
        "5 exactly"
    )
    assert lines[5].startswith("rung hold: not judged: holds the arm")


def test_a_run_uses_what_passed_and_nothing_else(copy, played):
    judge_rungs(copy, PROFILE, SETTINGS, lambda line: None)
    manifest = read_manifest(copy)
    tag = read_verdicts(copy, manifest)[0][0].norm_tag
    acting = Acting(copy, manifest, Asked("continuous", tag, "incremental"), 1.0, ())
    rungs, lines = usable_rungs(PROFILE.board.ladder, acting, "sim")
    assert [rung.name for rung in rungs] == [
        "draft_window 8", "depth_every_calls 4", "speed_share 0.5", "hold"
    ]  # fmt: skip
    assert len(lines) == 2


def test_verdicts_on_other_settings_stay_and_those_on_the_same_are_replaced(copy, played):
    judge_rungs(copy, PROFILE, SETTINGS, lambda line: None)
    only = dataclasses.replace(LADDER, rungs=(Rung("depth_every_calls", 4.0), Rung("hold", 1.0)))
    judge_rungs(copy, with_ladder(only), dataclasses.replace(SETTINGS, seed=7), lambda line: None)
    verdicts, problem = read_verdicts(copy, read_manifest(copy))
    assert problem is None
    seeds = [(verdict.settings, verdict.seed) for verdict in verdicts]
    assert ({"depth_every_calls": 4.0}, 7) in seeds
    assert ({"depth_every_calls": 4.0}, 0) not in seeds
    assert len(verdicts) == 4


def test_too_few_trials_or_a_policy_that_fails_anyway_prove_nothing(copy, played, monkeypatch):
    few = judge_rungs(copy, PROFILE, LadderSettings(trials=5), lambda line: None)[0]
    assert few.verdict == FAILED
    assert "success_drop_bound_points" in few.failures
    monkeypatch.setattr(judge, "FULL_SUCCESS_PERCENT", 99.0)
    poor = judge_rungs(copy, PROFILE, SETTINGS, lambda line: None)[0]
    assert poor.failures == "full_pace_success_percent 98.3 (limit 99)"


def test_board_without_a_ladder_has_nothing_to_judge(copy):
    with pytest.raises(BuildError, match="board sim_host of profile sim has no ladder; nothing"):
        judge_rungs(copy, with_ladder(None), SETTINGS, lambda line: None)


def test_the_command_prints_verdicts_and_exits_by_them(copy, played, monkeypatch, capsys):
    monkeypatch.setattr("quantization.ladder_command.load_profile", lambda name: PROFILE)
    command = ["ladder", str(copy), "--profile", "my_board", "--trials", "60"]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "rung draft_window 8: passed; 98.3 % of 60 trials done, 98.3 % at full pace" in out
    assert f"written to {copy / LADDER_NAME}" in out
    assert len(json.loads((copy / LADDER_NAME).read_text())["verdicts"]) == 4
    fewer = dataclasses.replace(LADDER, rungs=(Rung("depth_every_calls", 4.0),))
    monkeypatch.setattr("quantization.ladder_command.load_profile", lambda n: with_ladder(fewer))
    assert main(command) == 0
    monkeypatch.setattr("quantization.ladder_command.load_profile", lambda n: with_ladder(None))
    assert main(command) == 2
    assert "has no ladder; nothing to judge" in capsys.readouterr().err


def test_the_fidelity_bench_tries_the_first_rungs_beside_full_pace(copy, played, tmp_path, capsys):
    sim = resources.files("profiles").joinpath("sim.yaml").read_text("utf-8")
    (tmp_path / "own.yaml").write_text(sim.replace("board: sim_host", "board: board.yaml"))
    (tmp_path / "board.yaml").write_text(f"name: mine\nbased_on: sim_host\n{LADDER_TEXT}")
    command = ["fidelity", str(copy), "--against", str(copy), "--trials", "6"]
    command += ["--profile", str(tmp_path / "own.yaml"), "--rung"]
    assert bench([*command, "8"]) == 0
    out = capsys.readouterr().out
    (how,) = [line for line in out.splitlines() if line.startswith("bundle: depth")]
    assert how == (
        "bundle: depth incremental, real-time chunking on, with draft_window 8, max_policy_hz 2, "
        "depth_every_calls 4, depth_max_cells 25, flow_steps 5, camera_hz 5, speed_share 0.5; "
        "against: depth incremental, real-time chunking on"
    )
    assert {job.settings.pace.hold for job in played} == {""}
    assert bench([*command, "9"]) == 2
    assert "--rung 9: the ladder of board mine has 8 rungs; give fewer" in capsys.readouterr().err
