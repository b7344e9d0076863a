"""`molmoact-quantize gate`: what it answers, and that a verdict is whole or not there."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil

import gate_practice
import numpy as np
import pytest
from conftest import edit_manifest

pytest.importorskip("onnx")

import quantization.gate
import quantization.gate_file
import quantization.layer_harm
from edge.bundle import open_bundle
from edge.gate_entry import FAILED, PASSED, UNJUDGED, WHOLE, standing
from edge.manifest import read_manifest
from edge.policy import Policy
from quantization.cli import main
from quantization.errors import BuildError
from quantization.gate_file import only_gate, write_entry
from quantization.recipes import parse_rule

pytestmark = pytest.mark.usefixtures("own_cache", "one_episode")
LOOSE = [f"{name}=1000" for name in ("tip_mean_mm", "tip_p95_mm")] + [
    "gripper_agreement=0",
    "observations=2",
]


@pytest.fixture
def one_episode(monkeypatch):
    """Give the reference's pictures, whatever episodes are asked for."""
    monkeypatch.setattr(
        quantization.gate,
        "recorded_observations",
        lambda *_, **__: gate_practice.observations(2),
    )


@pytest.fixture
def small(bundles, tmp_path):
    return shutil.copytree(bundles(recipe="int4"), tmp_path / "small")


def gate(small, whole, *more, limits=()):
    arguments = ["gate", str(small), "--against", str(whole), "--episodes", "sim", "--trials", "0"]
    for limit in limits:
        arguments += ["--limit", limit]
    return main([*arguments, *more])


def refusal(capsys):
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 1
    return errors[0]


def test_a_bundle_within_its_limits_passes_and_runs(small, bundles, capsys):
    assert gate(small, bundles(), limits=LOOSE) == 0
    assert f"{small}: passed; recipe int4, continuous actions" in capsys.readouterr().out
    manifest = open_bundle(small).manifest
    assert standing(manifest) == PASSED
    entry = manifest.gate
    assert entry.checks["tip_mean_mm"].limit == 1000.0
    assert 0 < entry.checks["tip_mean_mm"].value < entry.figures["tip_max_mm"]
    assert entry.source_sha256 == manifest.source.sha256
    assert (entry.episodes, entry.observations, entry.trials) == ("sim", 2, 0)
    assert entry.figures["tip_spread_mean_mm"] > 0
    assert not list(small.glob(".*"))


def test_a_bundle_that_fails_names_layers_and_with_them_it_is_closer(
    small, bundles, tmp_path, monkeypatch, capsys
):
    from conftest import REFERENCE

    from quantization.build import build_bundle

    monkeypatch.setattr(quantization.layer_harm, "MOST_MATRICES", 1)  # blocks, which are fewer
    assert gate(small, bundles(), limits=[*LOOSE, "tip_mean_mm=0.000001"]) == 1
    out = capsys.readouterr().out
    assert "NO  tip_mean_mm" in out
    before = read_manifest(small)
    assert standing(before) == FAILED
    rules = [parse_rule(rule) for rule in before.gate.keep]
    assert rules
    assert all(f"--set '{rule}'" in out for rule in before.gate.keep)
    better = tmp_path / "better"
    build_bundle(REFERENCE / "two_cameras" / "checkpoint", better, "int4", rules)
    assert gate(better, bundles(), limits=LOOSE) == 0
    checks = [manifest.gate.checks["tip_mean_mm"] for manifest in (before, read_manifest(better))]
    assert checks[1].value < checks[0].value / 2


def test_full_precision_is_not_judged(bundles, tmp_path, capsys):
    twin = shutil.copytree(bundles(), tmp_path / "twin")
    assert gate(twin, bundles()) == 2
    assert "is full precision itself" in refusal(capsys)
    assert standing(read_manifest(twin)) == WHOLE


def test_a_mistyped_bundle_is_called_none(bundles, tmp_path, capsys):
    assert gate(tmp_path / "smal", bundles()) == 2
    assert "no such bundle" in refusal(capsys)


def test_a_bundle_that_answers_no_numbers_keeps_its_manifest(small, bundles, monkeypatch, capsys):
    before, act = (small / "manifest.json").read_bytes(), Policy.act

    def broken(policy, *words, **options):
        told = act(policy, *words, **options)
        if policy.bundle.path == small:
            told.actions[0, 0] = np.nan
        return told

    monkeypatch.setattr(Policy, "act", broken)
    assert gate(small, bundles()) == 2
    assert "actions that are no numbers" in refusal(capsys)
    assert (small / "manifest.json").read_bytes() == before


def test_trials_without_a_desk_are_refused_before_anything_is_measured(
    small, bundles, monkeypatch, capsys
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "mujoco" else find_spec(name)
    )
    assert gate(small, bundles(), "--trials", "20") == 2
    assert "needs mujoco" in refusal(capsys)


def test_judging_again_gives_the_same_figures(small, bundles):
    entries = []
    for _ in range(2):
        gate(small, bundles(), limits=LOOSE)
        entries.append(read_manifest(small).gate)
    assert entries[0].checks == entries[1].checks
    assert entries[0].figures == entries[1].figures


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("itself", "a bundle cannot judge itself"),
        ("int8", "recipe int8 is not full precision"),
        ("other", "come from different checkpoints"),
        ("absent", "no such bundle"),
    ],
)
def test_what_cannot_judge_is_refused(small, bundles, tmp_path, which, message, capsys):
    against = {
        "itself": lambda: small,
        "int8": lambda: bundles(recipe="int8"),
        "other": lambda: bundles("one_camera_crops"),
        "absent": lambda: tmp_path / "absent",
    }[which]()
    assert gate(small, against) == 2
    assert message in refusal(capsys)
    assert standing(read_manifest(small)) == UNJUDGED


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("tip=1", "is not NAME=VALUE"),
        ("success_drop_points=2", "give --trials"),
    ],
)
def test_a_limit_that_cannot_be_kept_to_is_bad_usage(small, bundles, limit, message, capsys):
    assert gate(small, bundles(), limits=[limit]) == 2
    assert message in refusal(capsys)
    assert standing(read_manifest(small)) == UNJUDGED


def test_an_altered_weight_is_not_judged(small, bundles, capsys):
    path = small / "expert.onnx.data"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert gate(small, bundles()) == 2
    assert "expert.onnx.data: altered" in refusal(capsys)


def test_two_gates_at_once_do_not_mix(small, bundles, capsys):
    handle = os.open(small, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert gate(small, bundles(), limits=LOOSE) == 2
    assert "another gate is judging it" in refusal(capsys)
    os.close(handle)
    assert gate(small, bundles(), limits=LOOSE) == 0


def test_a_gate_that_dies_while_it_writes_leaves_the_old_verdict(small, bundles, monkeypatch):
    before = gate_practice.judge_as(small, FAILED)

    class Killed(BaseException):
        pass

    def die(handle):
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(quantization.gate_file.os, "fsync", die)
        with pytest.raises(Killed):
            gate(small, bundles(), limits=LOOSE)
    assert read_manifest(small) == before
    assert gate(small, bundles(), limits=LOOSE) == 0
    assert standing(read_manifest(small)) == PASSED
    assert not list(small.glob(".*"))


def test_a_bundle_that_changes_meanwhile_gets_no_verdict(small, bundles, tmp_path):
    with only_gate(small):
        judged = read_manifest(small)
        shutil.rmtree(small)
        shutil.copytree(bundles(recipe="int8"), small)
        with pytest.raises(BuildError, match="was changed while it was judged"):
            write_entry(small, judged, gate_practice.entry_for(small))
    assert standing(read_manifest(small)) == UNJUDGED


def test_a_weight_that_changes_meanwhile_gets_no_verdict(small):
    with only_gate(small):
        judged = read_manifest(small)
        path = small / "vision.onnx.data"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(Exception, match=r"vision\.onnx\.data: altered"):
            write_entry(small, judged, gate_practice.entry_for(small))
    assert read_manifest(small).gate is None


def test_a_verdict_of_another_bundle_is_replaced_by_an_own_one(small, bundles, tmp_path):
    other = shutil.copytree(bundles(recipe="int8"), tmp_path / "other")
    gate_practice.judge_as(other)
    entry = json.loads((other / "manifest.json").read_text())["gate"]
    edit_manifest(small, lambda manifest: manifest.update(gate=entry))
    assert gate(small, bundles(), limits=LOOSE) == 0
    assert standing(read_manifest(small)) == PASSED


def test_a_bundle_that_cannot_be_written_is_told_before_anything_is_measured(
    small, bundles, monkeypatch, capsys
):
    monkeypatch.setattr(quantization.gate_file.os, "access", lambda *_: False)
    monkeypatch.setattr(quantization.gate, "measure_open_loop", None)
    assert gate(small, bundles()) == 2
    assert "cannot be written, so no verdict can be kept" in refusal(capsys)


def test_trials_enter_the_verdict(small, bundles, monkeypatch, capsys):
    from quantization.fidelity.closed_loop import ClosedLoopReport, TrialFigures
    from quantization.fidelity.shares import paired_difference, share_of

    def figures(count):
        return TrialFigures(share_of(count, 40), {}, None, None, 0.0, 0.0, 0.0, 1.0, None, {})

    def measured(ours, theirs, trials, settings, **_):
        assert (ours.bundle, theirs.bundle) == (small, bundles())
        assert len(trials) == 40
        assert settings.depth == "incremental"
        difference = paired_difference([True] * 30 + [False] * 10, [True] * 40)
        cards = dict.fromkeys(ClosedLoopReport.__slots__)
        sides = {"figures": figures(30), "against_figures": figures(40)}
        return ClosedLoopReport(**{**cards, **sides, "difference": difference})

    pytest.importorskip("mujoco")
    monkeypatch.setattr(quantization.gate, "measure_closed_loop", measured)
    assert gate(small, bundles(), "--trials", "40", "--no-advice", limits=LOOSE) == 1
    entry = read_manifest(small).gate
    assert entry.trials == 40
    assert entry.checks["success_drop_points"].value == pytest.approx(25.0)
    assert entry.figures["success_percent"] == pytest.approx(75.0)
    assert entry.figures["only_full_succeeded"] == 10
    assert "40 trials each" in capsys.readouterr().out
