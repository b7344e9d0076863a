"""Trials of a bundle beside those of full precision: sums, pairs, and a journal that goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

from conftest import edit_manifest
from test_fidelity import only_tag

from benchmarks.cli import main
from benchmarks.fidelity_command import KINDS, LATENCY_S, LIMIT_S, REPLAN_S
from quantization.fidelity import closed_loop, trial_journal
from quantization.fidelity.closed_loop import (
    Runner,
    difference_of,
    measure_closed_loop,
    trial_figures,
)
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.observations import SIM, Sampling, recorded_observations
from sim import tasks
from sim.gl import GlError, ensure_gl
from sim.rollout import RolloutSettings, Trial, TrialResult, draw_trials

SHORT = RolloutSettings(limit_s=0.7)


@pytest.fixture(scope="module")
def off_screen_gl():
    try:
        ensure_gl()
    except GlError as error:
        pytest.skip(f"pictures cannot be rendered: {error}")


def result(succeeded, *, kind="touch", done="red", seed=0, **changes):
    """A trial in which the red cube was named."""
    trial = Trial(kind, "red", "touch the red cube", 7, None, seed)
    values = {
        "time_s": 4.0 + seed,
        "calls": 8,
        "changed_share": 0.2,
        "seam_velocity": 10.0,
        "jerk": 100.0,
        "clamped_ticks": 0,
        "stopped": "",
    }
    return TrialResult(
        trial=trial,
        succeeded=succeeded,
        done_colour=done if succeeded or done != "red" else None,
        **{**values, **changes},
    )


def test_trials_are_summed_up():
    figures = trial_figures(
        [
            result(True, seed=0),
            result(True, seed=2, kind="put_in_bin", clamped_ticks=8, seam_velocity=30.0),
            result(False, done="blue", seed=50, changed_share=None),
            result(False, seed=50, stopped="torque off"),
        ]
    )
    assert (figures.success.count, figures.success.trials) == (2, 4)
    assert {kind: share.share for kind, share in figures.by_kind.items()} == {
        "touch": pytest.approx(1 / 3),
        "put_in_bin": 1.0,
    }
    assert (figures.named.count, figures.named.trials) == (2, 3)  # blue was done once
    assert figures.clamped_ticks == 2
    assert figures.seam_velocity_deg_s == 15
    assert figures.changed_share == pytest.approx(0.2)
    assert figures.time_s == 5.0
    assert figures.stopped == {"torque off": 1}


def test_nothing_done_has_no_named_share_and_no_time():
    figures = trial_figures([result(False), result(False)])
    assert figures.named is None
    assert figures.time_s is None
    assert figures.success.share == 0


def test_trials_are_compared_in_pairs():
    first = [result(value) for value in (True, True, False, True)]
    second = [result(value) for value in (True, False, True, False)]
    found = difference_of(first, second)
    assert (found.only_first, found.only_second, found.difference) == (2, 1, 0.25)


@pytest.fixture
def played(monkeypatch):
    """Play trials without a desk: the bundle called good does those of an even seed."""
    jobs = []

    def run_jobs(todo, workers):
        for job in todo:
            jobs.append(job)
            good = job.trial.seed % 2 == 0
            yield job, replace(result(good, kind=job.trial.kind), trial=job.trial)

    monkeypatch.setattr(closed_loop, "run_jobs", run_jobs)
    monkeypatch.setattr(closed_loop, "require_desk", lambda: None)
    return jobs


def trials(count):
    return [replace(result(True).trial, seed=seed) for seed in range(count)]


def test_full_precision_is_tried_again_with_other_noise(bundles, played):
    report = measure_closed_loop(bundles(recipe="int4"), bundles(), trials(6), SHORT)
    assert len(played) == 18
    assert len({(job.bundle, job.trial.seed) for job in played}) == 18
    assert report.figures.success.count == report.against_figures.success.count == 3
    assert report.difference.difference == report.spread.difference == 0
    assert report.by_kind_difference["touch"] == report.difference
    alone = measure_closed_loop(bundles(), None, trials(2), SHORT)
    assert alone.against is alone.difference is alone.spread is None


def test_a_bundle_against_itself_is_tried_once(bundles, played):
    report = measure_closed_loop(bundles(), bundles(), trials(5), SHORT, spread=False)
    assert len(played) == 5
    assert (report.difference.only_first, report.difference.only_second) == (0, 0)
    other = Runner(bundles(), replace(SHORT, chunking=False))
    measure_closed_loop(bundles(), other, trials(5), SHORT, spread=False)
    assert [job.settings.chunking for job in played[5:]].count(False) == 5


def test_tokens_are_not_held_to_what_the_arm_does(bundles, played):
    tokens = Runner(bundles("action_tokens"), SHORT, actions="discrete")
    report = measure_closed_loop(tokens, None, trials(1), SHORT)
    assert [job.settings.chunking for job in played] == [report.settings.chunking] == [False]


def test_a_journal_saves_what_was_tried(bundles, played, tmp_path):
    journal = tmp_path / "new" / "trials.jsonl"
    first = measure_closed_loop(bundles(), None, trials(4), SHORT, journal=journal)
    assert len(played) == 4
    ticks = []
    again = measure_closed_loop(
        bundles(),
        None,
        trials(5),
        SHORT,
        journal=journal,
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert len(played) == 5
    assert ticks == [(4, 5), (5, 5)]
    assert again.figures.success.trials == 5
    named = Runner(bundles(), SHORT, actions="continuous")  # what it does by itself
    same = measure_closed_loop(named, None, trials(4), SHORT, journal=journal)
    assert (same.figures, len(played)) == (first.figures, 5)
    measure_closed_loop(bundles(), None, trials(4), replace(SHORT, limit_s=0.8), journal=journal)
    assert len(played) == 9
    measure_closed_loop(bundles(recipe="int4"), None, trials(4), SHORT, journal=journal)
    assert len(played) == 13


def test_a_journal_cut_off_by_a_kill_goes_on(bundles, played, tmp_path):
    journal = tmp_path / "trials.jsonl"
    measure_closed_loop(bundles(), None, trials(3), SHORT, journal=journal)
    journal.write_text(journal.read_text()[:-40])
    for expected in (4, 4):
        measure_closed_loop(bundles(), None, trials(3), SHORT, journal=journal)
        assert len(played) == expected


def test_a_file_that_is_no_journal_is_left_alone(bundles, played, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a journal\n")
    with pytest.raises(FidelityError, match="no line of it is a trial's"):
        measure_closed_loop(bundles(), None, trials(1), SHORT, journal=file)
    assert file.read_text() == "not a journal\n"
    with pytest.raises(FidelityError, match="not a journal that can be read"):
        measure_closed_loop(bundles(), None, trials(1), SHORT, journal=tmp_path)


def test_a_result_of_another_version_is_tried_again(bundles, played, tmp_path):
    journal = tmp_path / "trials.jsonl"
    measure_closed_loop(bundles(), None, trials(1), SHORT, journal=journal)
    entry = json.loads(journal.read_text())
    entry["result"].pop("trial")
    journal.write_text(json.dumps(entry) + "\n")
    measure_closed_loop(bundles(), None, trials(1), SHORT, journal=journal)
    assert len(played) == 2


@pytest.mark.parametrize("what", ["machine_name", "onnxruntime", "source", "manifest"])
def test_a_journal_from_elsewhere_gives_nothing(bundles, played, tmp_path, monkeypatch, what):
    journal, bundle = tmp_path / "trials.jsonl", shutil.copytree(bundles(), tmp_path / "bundle")
    measure_closed_loop(bundle, None, trials(1), SHORT, journal=journal)
    if what == "machine_name":
        monkeypatch.setattr(trial_journal, "machine_name", lambda: "another machine")
    elif what == "onnxruntime":
        monkeypatch.setattr(trial_journal.onnxruntime, "__version__", "0.1")
    elif what == "source":
        monkeypatch.setattr(trial_journal, "_sources_digest", lambda: "changed")
    else:
        edit_manifest(bundle, lambda manifest: manifest["model"].update(flow_steps=3))
        trial_journal._bundle_digest.cache_clear()
    measure_closed_loop(bundle, None, trials(1), SHORT, journal=journal)
    assert len(played) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sensitivity"], "--sensitivity says nothing without --episodes"),
        (["--rung", "2"], "--rung says nothing without --trials"),
        (["--against-depth", "off"], "--against-depth says nothing without --trials"),
    ],
)
def test_options_of_what_is_not_measured_are_refused(bundles, options, message, capsys):
    other = ["--trials", "1"] if "--sensitivity" in options else ["--episodes", "sim"]
    bundle = str(bundles())
    assert main(["fidelity", bundle, "--against", bundle, *other, *options]) == 2
    assert message in capsys.readouterr().err


def test_no_trial_is_an_error(bundles):
    with pytest.raises(FidelityError, match="no trial was given"):
        measure_closed_loop(bundles(), None, [], SHORT)


def test_the_command_knows_the_desks_tasks_and_how_it_asks():
    settings = RolloutSettings()
    assert KINDS == tasks.KINDS
    assert (settings.replan_s, settings.latency_s) == (REPLAN_S, LATENCY_S)
    assert settings.limit_s == LIMIT_S


def test_trials_on_the_desk_are_the_same_in_any_process(bundles, off_screen_gl, capsys):
    options = ["--trials", "2", "--limit-s", "0.7", "--workers", "2"]
    command = ["fidelity", str(bundles(recipe="int8")), "--against", str(bundles()), *options]
    assert main([*command, "--kinds", "touch"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    report = json.loads(lines[-1])["closed_loop"]
    assert report["figures"]["success"]["trials"] == report["difference"]["trials"] == 2
    assert report["figures"]["calls"] == 2
    assert report["settings"]["depth"] == "incremental"
    again = measure_closed_loop(
        bundles(), None, draw_trials(2, 0, ["touch"]), replace(SHORT, depth="incremental")
    )
    assert again.figures.jerk_deg_s3 == report["against_figures"]["jerk_deg_s3"]
    assert any(line.startswith("touch") for line in lines)


def test_the_desk_gives_observations_of_held_out_tasks(bundles, off_screen_gl):
    sampling = Sampling(samples=3, replan_s=0.2, seed=4)
    found, again = (
        list(recorded_observations(SIM, only_tag(bundles()), sampling)) for _ in range(2)
    )
    assert [seen.t_s for seen in found] == pytest.approx([0.0, 0.2, 0.4])
    texts = [text for kind in tasks.HELD_OUT_PHRASINGS.values() for text in kind]
    assert any(found[0].task == text.format(colour=colour) for text in texts for colour in _COLOURS)
    assert found[0].state[1] > 150  # folded, in the checkpoint's frame
    assert all((one.state == other.state).all() for one, other in zip(found, again, strict=True))
    pictures = [seen.images[0] for seen in (*found[:1], *again[:1])]
    assert (pictures[0] == pictures[1]).all()


_COLOURS = ("red", "green", "blue")
