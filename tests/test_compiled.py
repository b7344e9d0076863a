"""Compiled blocks take the steps of those that are not."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")

import tiny_training

from training.errors import TrainingError
from training.model.compiled import compile_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


def train(folder, **changes):
    folder.mkdir()
    tiny_training.make_checkpoint(folder)
    recipe = tiny_training.write_recipe(folder, steps=3, **changes)
    run = folder / "run"
    assert tiny_training.main(["run", str(recipe), "--out", str(run), "--workers", "0"]) == 0
    return tiny_training.losses(run)


def test_compiled_blocks_take_the_same_steps(tmp_path):
    plain, compiled = train(tmp_path / "plain"), train(tmp_path / "compiled", compile=True)
    assert len(plain) == len(compiled) == 3
    for one, other in zip(plain, compiled, strict=True):
        assert other["language"] == pytest.approx(one["language"], rel=1e-4)
        assert other["flow"] == pytest.approx(one["flow"], rel=1e-4)


def test_without_a_compiler_there_is_one_clear_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"no C\+\+ compiler no-such-compiler.*compile=false"):
        compile_blocks(torch.nn.Linear(1, 1))
