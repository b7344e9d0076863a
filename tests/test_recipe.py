"""A recipe is read strictly: what it lacks, or says wrongly, is refused with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

import tiny_training

from training.errors import TrainingError
from training.trainer.recipe import changed_keys, read_recipe

RECIPES = Path(__file__).parent.parent / "training" / "recipes"


@pytest.fixture
def recipe(tmp_path):
    return tiny_training.write_recipe(tmp_path)


def shipped():
    return sorted(path for path in RECIPES.rglob("*.yaml") if "accelerate" not in path.name)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_recipe_is_valid(path):
    assert read_recipe(path).steps > 0


@pytest.mark.parametrize("stage", ["discrete", "expert", "depth", "finetune"])
def test_full_recipes_state_the_published_figures(stage):
    recipe = read_recipe(RECIPES / "full" / f"{stage}.yaml")
    assert recipe.optimizer.rates == {
        "vision": 5e-6,
        "connector": 5e-6,
        "decoder": 1e-5,
        "expert": 5e-5,
    }
    assert (recipe.optimizer.betas, recipe.optimizer.eps) == ((0.9, 0.95), 1e-6)
    assert recipe.residual_dropout == 0.1
    assert (recipe.optimizer.warmup_steps, recipe.optimizer.final_share) == (200, 0.1)
    samples = {"discrete": None, "expert": 4, "depth": 4, "finetune": 8}[stage]
    assert (recipe.flow and recipe.flow.samples) == samples
    assert (recipe.flow and recipe.flow.insulation) == {"discrete": None, "finetune": False}.get(
        stage, True
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("steps=0", "steps: 0; allowed: a whole number 1..10000000"),
        ("optimizer.final_share=2", "optimizer.final_share: 2; allowed: 0..1"),
        ("optimizer.betas=[0.9]", "optimizer.betas: [0.9]; allowed: a list of 2"),
        ("precision=fp16", "precision: 'fp16'; allowed: fp32, bf16"),
        ("micro_batch_size=3", "micro_batch_size: 3 does not divide batch_size 4"),
        ("from={init: huge, seed: 0}", "from.init: 'huge'; allowed: nano, full"),
        ("flow=null", "flow: null, but losses.flow is 1"),
        ("losses.flow=0", "flow: given, but losses.flow is 0; make flow null"),
        ("flow.scale=1", "flow.scale is 1.0 and flow.offset 0.001; scale must"),
        ("depth={code_noise: 0.1, gate: half}", "depth.gate: 'half'; allowed:"),
        ("trainable=half", "trainable: 'half'; allowed: full, expert"),
        ("trainable={lora: {rank: 4}}", "trainable.lora.alpha: this key is missing"),
        ("data.arm.weight=-1", "data.arm.weight: -1; allowed:"),
        ("optimizer.warmup_steps=9", "optimizer.warmup_steps: 9; allowed: a whole number 0..8"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key_and_range(recipe, override, problem):
    with pytest.raises(TrainingError) as error:
        read_recipe(recipe, [override])
    assert str(error.value).startswith(f"{recipe}: {problem}")


@pytest.mark.parametrize("key", sorted(tiny_training.RECIPE))
def test_a_missing_key_is_refused(tmp_path, key):
    path = tiny_training.write_recipe(tmp_path)
    values = yaml.safe_load(path.read_text())
    del values[key]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(TrainingError, match=f"{key}: this key is missing"):
        read_recipe(path)


def test_an_unknown_key_is_refused(tmp_path):
    path = tiny_training.write_recipe(tmp_path, momentum=0.9)
    with pytest.raises(TrainingError, match="unknown key 'momentum'"):
        read_recipe(path)


def test_a_recipe_that_is_not_there_or_not_yaml_is_refused_in_one_line(tmp_path):
    with pytest.raises(TrainingError, match="no such recipe"):
        read_recipe(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("steps: [1,\nseed: }")
    with pytest.raises(TrainingError, match=r"line \d+: not valid YAML") as error:
        read_recipe(broken)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("stepps=3", "has no key stepps"),
        ("optimizer.rates.arm=3", "has no key optimizer.rates.arm"),
        ("steps", "not of the form key=value"),
        ("steps=[", "not valid YAML"),
    ],
)
def test_an_override_changes_only_what_is_there(recipe, override, problem):
    with pytest.raises(TrainingError, match=problem):
        read_recipe(recipe, [override])


def test_overrides_reach_nested_keys_and_numbers_without_a_dot(recipe):
    changed = read_recipe(recipe, ["optimizer.rates.expert=1e-4", "steps=20", "ema=0.99"])
    assert changed.optimizer.rates["expert"] == 1e-4
    assert (changed.steps, changed.ema) == (20, 0.99)


def test_the_digest_is_of_what_shapes_the_figures(recipe):
    digest = read_recipe(recipe).digest()
    assert read_recipe(recipe, ["checkpoint_every=7"]).digest() == digest
    assert read_recipe(recipe, ["seed=4"]).digest() != digest


def test_keys_that_differ_are_named_with_both_values(recipe):
    before = read_recipe(recipe).values
    after = read_recipe(recipe, ["optimizer.clip_norm=2", "depth={code_noise: 0, gate: none}"])
    assert changed_keys(before, after.values) == [
        "depth: null -> absent",
        "optimizer.clip_norm: 1.0 -> 2",
        "depth.code_noise: absent -> 0",
        'depth.gate: absent -> "none"',
    ]
