"""The dry run: parameters, memory and work of a recipe, without weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lerobot")

from training.cli import main
from training.init.sizes import FULL, NANO
from training.model.settings import Adaptation
from training.trainer.memory import GIB
from training.trainer.plan import Planner, fits
from training.trainer.recipe import read_recipe

RECIPES = Path(__file__).parent.parent / "training" / "recipes"
# Peaks in GiB at 8, 16 and 32 examples a pass on one GPU, everything in bf16 (LeRobot, MolmoAct2).
PUBLISHED_PEAKS_GIB = {
    "expert": (16.5, 18.3, 21.4),
    "lora": (20.2, 26.8, 41.3),
    "full": (48.3, 49.8, 60.1),
}


def recipe(name, *overrides):
    return read_recipe(RECIPES / "full" / f"{name}.yaml", overrides)


@pytest.mark.parametrize("kind", PUBLISHED_PEAKS_GIB)
def test_memory_is_near_the_published_peaks(kind):
    stage = "finetune-expert" if kind == "expert" else "finetune"
    for examples, peak_gib in zip((8, 16, 32), PUBLISHED_PEAKS_GIB[kind], strict=True):
        sized = dataclasses.replace(
            recipe(stage),
            batch_size=examples,
            micro_batch_size=examples,
            trainable=Adaptation(kind),
        )
        plan = Planner(sized, FULL).plan(1, recompute=True)
        parameters = sum(count for count, _ in plan.groups.values())
        trainable = sum(count for _, count in plan.groups.values())
        all_in_bf16 = 2 * parameters + (2 + 4) * trainable
        estimated_gib = (all_in_bf16 + plan.bytes.activations) / GIB
        assert estimated_gib == pytest.approx(peak_gib, rel=0.16), (kind, examples)


def test_bytes_follow_from_parameters():
    plan = Planner(recipe("expert"), FULL).plan(8, recompute=True)
    parameters = sum(count for count, _ in plan.groups.values())
    assert 5.3e9 < parameters < 5.6e9
    assert plan.bytes.weights == 4 * parameters / 8
    assert plan.bytes.optimizer == 2 * plan.bytes.gradients == 8 * parameters / 8
    assert plan.bytes.averages == 0


def test_what_is_frozen_costs_no_gradients():
    plan = Planner(recipe("finetune-expert"), FULL).plan(1, recompute=True)
    count, trainable = plan.groups["decoder"]
    assert (count > 4e9, trainable) == (True, 0)
    assert plan.bytes.gradients == 4 * plan.groups["expert"][1]


def test_a_stage_without_flow_does_not_train_the_expert():
    groups = Planner(recipe("discrete"), FULL).plan(8, recompute=True).groups
    assert groups["expert"][1] == 0
    assert groups["decoder"][0] == groups["decoder"][1]


def test_work_is_six_operations_a_parameter_and_token_of_text():
    sized = recipe("discrete")
    plan = Planner(sized, FULL).plan(8, recompute=False)
    decoder = plan.groups["decoder"][0] - 2 * 151_936 * 2560
    floor = 6 * decoder * plan.step_tokens
    assert floor < plan.step_flops < 2 * floor


def test_computing_activations_again_trades_memory_for_work():
    planner = Planner(recipe("expert"), FULL)
    kept, again = (planner.plan(8, recompute=recompute) for recompute in (False, True))
    assert again.bytes.activations < kept.bytes.activations / 3
    assert kept.step_flops < again.step_flops < 1.5 * kept.step_flops


def test_what_cannot_fit_is_refused_with_what_would(capsys):
    path = str(RECIPES / "full" / "finetune.yaml")
    assert main(["plan", path, "--size", "full", "--devices", "1", "--memory-gib", "80"]) == 2
    printed = capsys.readouterr()
    assert "decoder" in printed.out
    line = printed.err.strip().splitlines()[-1]
    assert "GiB a device, 80 GiB are there. What fits:" in line
    assert "2 devices with --checkpoint-activations" in line
    assert "LoRA (trainable) with --checkpoint-activations" in line
    assert "expert only (trainable) with --checkpoint-activations" in line


def test_each_remedy_fits():
    planner = Planner(recipe("finetune"), FULL)
    assert not fits(planner.plan(1, recompute=False), 80)
    assert fits(planner.plan(2, recompute=True), 80)


def test_the_nano_recipes_fit_a_small_computer(capsys):
    for path in sorted((RECIPES / "nano").glob("*.yaml")):
        plan = Planner(read_recipe(path), NANO).plan(1, recompute=False)
        assert plan.gib < 4, path


def test_the_speed_needed_is_printed(capsys):
    path = str(RECIPES / "full" / "expert.yaml")
    options = ("--size", "full", "--devices", "64", "--set", "micro_batch_size=2")
    assert main(["plan", path, *options]) == 0
    out = capsys.readouterr().out
    # 100,000 steps in 2,304 / 64 = 36 hours
    assert "post-training  2,304 h:    36.0 h on 64 devices, 0.772 steps/s" in out
    assert "% of 989 TFLOP/s a device" in out
