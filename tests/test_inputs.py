"""A run that goes on must read what it began with."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("torch")

import tiny_training

from training.errors import TrainingError
from training.init.init_checkpoint import init_checkpoint
from training.trainer.inputs import check_inputs, fingerprint, fingerprints
from training.trainer.recipe import read_recipe


@pytest.fixture
def recipe(tmp_path):
    tiny_training.make_checkpoint(tmp_path)
    return read_recipe(tiny_training.write_recipe(tmp_path))


def test_other_weights_of_the_same_size_are_told_apart(recipe, tmp_path):
    other = tmp_path / "other"
    init_checkpoint(other, tiny_training.TINY, seed=1, dtype="fp32", max_shard_mib=100)
    assert fingerprint(recipe.start.checkpoint) != fingerprint(other)
    shutil.copytree(recipe.start.checkpoint, tmp_path / "copy")
    assert fingerprint(recipe.start.checkpoint) == fingerprint(tmp_path / "copy")


def test_pictures_and_notes_do_not_count(recipe):
    before = fingerprint(recipe.start.checkpoint)
    (recipe.start.checkpoint / "README.md").write_text("seen")
    (recipe.start.checkpoint / "front.png").write_bytes(b"png")
    assert fingerprint(recipe.start.checkpoint) == before


def test_what_changed_is_named(recipe, tmp_path):
    file = tmp_path / "inputs.json"
    check_inputs(file, fingerprints(recipe, recipe.start.checkpoint), recipe)
    check_inputs(file, fingerprints(recipe, recipe.start.checkpoint), recipe)
    config = recipe.start.checkpoint / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(TrainingError, match=r"from of .*recipe.yaml no longer hold what it began"):
        check_inputs(file, fingerprints(recipe, recipe.start.checkpoint), recipe)


def test_damaged_notes_are_refused_in_one_line(recipe, tmp_path):
    file = tmp_path / "inputs.json"
    file.write_text("[1")
    with pytest.raises(TrainingError, match="not a run's inputs"):
        check_inputs(file, {}, recipe)
