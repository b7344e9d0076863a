"""A run that is killed at any moment goes on to the figures of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")

import tiny_training
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.errors import TrainingError
from training.trainer.recipe import read_recipe
from training.trainer.run_folder import create_run, cut_log
from training.trainer.state import newest_state, prune_states

pytestmark = pytest.mark.usefixtures("one_thread")
PROGRAM = Path(__file__).parent / "tiny_training.py"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny_training.make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(folder):
    return tiny_training.write_recipe(folder, ema=0.9)


@pytest.fixture(scope="module")
def whole(folder, recipe):
    assert train(recipe, folder / "whole") == 0
    return folder / "whole"


def train(recipe, out, *options):
    AcceleratorState._reset_state(reset_partial_state=True)
    return tiny_training.main(["run", str(recipe), "--out", str(out), "--workers", "0", *options])


def killed_after(steps, recipe, out):
    """Start a run in a process of its own and kill it when its log has `steps` lines."""
    arguments = ["run", str(recipe), "--out", str(out), "--workers", "0"]
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = out / "log.jsonl"
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < steps):
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_run_goes_on_to_the_same_losses_and_weights_bit_by_bit(folder, recipe, whole):
    killed = folder / "killed"
    killed_after(5, recipe, killed)
    assert newest_state(killed / "state").name == "step-000003"
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')  # what a kill within a write leaves
    half_written = killed / "state" / ".step-000006"
    half_written.mkdir(exist_ok=True)
    assert train(recipe, killed, "--resume") == 0
    assert tiny_training.losses(killed) == tiny_training.losses(whole)
    assert not half_written.exists()
    one, other = (load_file(run / "checkpoint" / "model.safetensors") for run in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_killed_before_its_first_state_begins_again(folder, recipe, whole):
    begun = folder / "begun"
    create_run(begun, read_recipe(recipe))
    (begun / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert train(recipe, begun, "--resume") == 0
    assert tiny_training.losses(begun) == tiny_training.losses(whole)


def test_another_recipe_is_refused_naming_what_differs(whole, recipe, capsys):
    options = ("--resume", "--set", "seed=4", "--set", "optimizer.rates.expert=1e-3")
    assert train(recipe, whole, *options) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "was started with another recipe" in line
    assert "(seed: 3 -> 4; optimizer.rates.expert: 0.004 -> 0.001)" in line


def test_a_complete_run_says_so(whole, recipe, capsys):
    assert train(recipe, whole, "--resume") == 2
    assert "checkpoint is already there: the run is complete" in capsys.readouterr().err


def test_there_must_be_a_run_to_resume(folder, recipe, capsys):
    assert train(recipe, folder / "nothing", "--resume") == 2
    assert "no run to resume (no recipe.json); leave --resume out" in capsys.readouterr().err


def test_a_damaged_state_is_refused_and_the_one_before_serves(folder, recipe, whole, capsys):
    run = folder / "damaged"
    create_run(run, read_recipe(recipe))
    lines = (whole / "log.jsonl").read_text()
    (run / "log.jsonl").write_text(lines)
    state = run / "state" / "step-000006"
    state.mkdir()
    digest = read_recipe(recipe).digest()
    (state / "state.json").write_text(json.dumps({"steps_done": 6, "digest": digest}))
    assert train(recipe, run, "--resume") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{state}: cannot be read" in line
    assert "remove it to go on from the state before" in line


def test_the_last_states_are_kept(tmp_path):
    for name in ("step-000003", "step-000010", "step-1000000", ".step-000012", "notes"):
        (tmp_path / name).mkdir()
    assert newest_state(tmp_path).name == "step-1000000"
    prune_states(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes",
        "step-000010",
        "step-1000000",
    ]


def test_the_log_is_cut_to_the_steps_done_and_must_hold_them(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    cut_log(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    with pytest.raises(TrainingError, match="holds 2 steps, the state to go on from has 3 done"):
        cut_log(log, 3)
