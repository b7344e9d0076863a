"""Two processes give the losses of one, with replicas of the model and with shards of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")

import tiny_training
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.errors import TrainingError
from training.trainer.recipe import read_recipe

PROGRAM = Path(__file__).parent / "two_process_training.py"
ROOT = Path(__file__).parent.parent
RELATIVE = 1e-6
# Of weights after four steps; AdamW makes much of a gradient that is nearly zero.
ATOL = {"replicas": 2e-3, "shards": 2e-3, "bf16": 2e-2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    tiny_training.make_checkpoint(folder)
    recipe = tiny_training.write_recipe(folder, steps=4, micro_batch_size=1, ema=0.9)
    launched = subprocess.Popen(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
            *(str(PROGRAM), str(recipe), str(folder)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    alone = ["run", str(recipe), "--out", str(folder / "alone"), "--workers", "0"]
    assert tiny_training.main(alone) == 0
    output, _ = launched.communicate(timeout=300)
    assert launched.returncode == 0, output
    return folder


@pytest.mark.parametrize("spread", ["replicas", "shards"])
def test_two_processes_give_the_losses_of_one(runs, spread):
    alone, together = tiny_training.losses(runs / "alone"), tiny_training.losses(runs / spread)
    assert len(together) == len(alone)
    for one, both in zip(alone, together, strict=True):
        for part in ("loss", "language", "flow"):
            assert both[part] == pytest.approx(one[part], rel=RELATIVE)
        assert both["sources"] == one["sources"]
        assert both["tokens"] == one["tokens"]
        for group, norm in one["grad_norms"].items():
            assert both["grad_norms"][group] == pytest.approx(norm, rel=1e-3)


def test_shards_in_bf16_give_nearly_the_losses_of_fp32(runs):
    for one, both in zip(
        tiny_training.losses(runs / "alone"), tiny_training.losses(runs / "bf16"), strict=True
    ):
        assert both["loss"] == pytest.approx(one["loss"], rel=0.01)


@pytest.mark.parametrize("spread", ["replicas", "shards", "bf16"])
def test_one_whole_checkpoint_is_written(runs, spread):
    alone = load_file(runs / "alone" / "checkpoint" / "model.safetensors")
    together = load_file(runs / spread / "checkpoint" / "model.safetensors")
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert together[name].shape == tensor.shape
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=ATOL[spread])


def test_a_run_of_two_processes_is_resumed_by_one(runs):
    """States know no number of processes."""
    for spread in ("replicas", "shards"):
        AcceleratorState._reset_state(reset_partial_state=True)
        (runs / spread / "checkpoint").rename(runs / f"{spread}-checkpoint")
        before = tiny_training.losses(runs / spread)
        (runs / spread / "state" / "step-000004").rename(runs / f"{spread}-last")
        recipe = str(runs / "recipe.yaml")
        resumed = ["run", recipe, "--out", str(runs / spread), "--workers", "0", "--resume"]
        assert tiny_training.main(resumed) == 0
        after = tiny_training.losses(runs / spread)
        assert after[:3] == before[:3]
        assert after[3]["loss"] == pytest.approx(before[3]["loss"], rel=RELATIVE)


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    recipe = read_recipe(tiny_training.write_recipe(tmp_path, micro_batch_size=2))
    assert recipe.examples_each(2) == 2
    with pytest.raises(TrainingError, match="batch_size 4 is not a multiple of micro_batch_size"):
        recipe.examples_each(4)
