"""Muon's step for matrices, beside AdamW's for everything else."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")

import tiny_training
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.model.groups import hidden_matrices, parameter_groups
from training.model.load import load_model
from training.trainer.optimizer import build_optimizer, clip_gradients
from training.trainer.orthogonal import AS_ADAMW, MatrixAdamW, orthogonalised
from training.trainer.recipe import read_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("muon")
    tiny_training.make_checkpoint(folder)
    return folder


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 16, 48), (2, 48, 16)])
def test_every_direction_of_a_step_is_as_long(shape):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    stretched = u @ torch.diag_embed(torch.logspace(0, -2, s.shape[-1]).expand_as(s)) @ v
    found = torch.linalg.svdvals(orthogonalised(stretched).float())
    assert found.min() > 0.5
    assert found.max() < 1.35
    # It is the same rotation: each direction stays where it was.
    assert (u.mT @ orthogonalised(stretched).float() @ v.mT).diagonal(dim1=1, dim2=2).min() > 0.5


def parameters():
    torch.manual_seed(1)
    return torch.nn.Parameter(torch.randn(8, 4)), torch.nn.Parameter(torch.randn(4))


def steps(optimizer, *learning):
    for step in range(3):
        for parameter in learning:
            torch.manual_seed(step)
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def test_other_parameters_take_adamws_step_and_matrices_one_of_its_size():
    matrix, vector = parameters()
    begun = matrix.detach().clone()
    optimizer = MatrixAdamW(
        [{"params": [matrix], "orthogonal": True}, {"params": [vector], "orthogonal": False}],
        lr=1e-2,
        weight_decay=0.0,
    )
    steps(optimizer, matrix, vector)
    _, alone = parameters()
    steps(torch.optim.AdamW([alone], lr=1e-2, weight_decay=0.0), alone)
    assert torch.equal(vector, alone)
    assert set(optimizer.state[matrix]) == {"momentum", "step"}
    moved = (matrix.detach() - begun).square().mean().sqrt()
    # A step's root mean square: 0.2 * sqrt(8) for singular values near 1 of an 8 x 4 matrix.
    one = 1e-2 * AS_ADAMW * 8**0.5 * (4 / 32) ** 0.5
    assert 0.5 * one < moved < 3.5 * one


def with_muon(folder):
    settings = {**tiny_training.RECIPE["optimizer"], "matrices": "muon"}
    return tiny_training.write_recipe(folder, optimizer=settings, ema=0.9)


def test_a_group_is_clipped_by_one_norm_though_two_kinds_of_steps_are_taken(folder):
    settings = read_recipe(with_muon(folder)).optimizer
    matrix, vector = parameters()
    optimizer = build_optimizer({"decoder": [matrix, vector]}, settings, [matrix])
    assert [group["orthogonal"] for group in optimizer.param_groups] == [False, True]
    matrix.grad, vector.grad = torch.full((8, 4), 0.5), torch.full((4,), 1.0)
    assert clip_gradients(optimizer, 1.0)["decoder"].item() == pytest.approx(12**0.5)
    left = matrix.grad.square().sum() + vector.grad.square().sum()
    assert left.item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weights_decay_and_gains_do_not(folder, kind):
    settings = {**tiny_training.RECIPE["optimizer"], "matrices": kind, "weight_decay": 0.5}
    settings = read_recipe(tiny_training.write_recipe(folder, optimizer=settings)).optimizer
    matrix, gain = parameters()
    begun = matrix.detach().clone(), gain.detach().clone()
    optimizer = build_optimizer({"decoder": [matrix, gain]}, settings, [matrix])
    matrix.grad, gain.grad = torch.zeros(8, 4), torch.zeros(4)
    optimizer.step()
    kept = 1 - 0.5 * settings.rates["decoder"]
    assert torch.allclose(matrix.detach(), begun[0] * kept, rtol=1e-6)
    assert torch.equal(gain.detach(), begun[1])


def train(recipe, out, *options):
    AcceleratorState._reset_state(reset_partial_state=True)
    return tiny_training.main(["run", str(recipe), "--out", str(out), "--workers", "0", *options])


def test_tables_inputs_and_outputs_are_left_to_adamw(folder):
    model = load_model(folder / "checkpoint")
    hidden = {id(parameter) for parameter in hidden_matrices(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    assert any("self_attn" in name for name in names)
    assert not [name for name in names if "wte" in name or "lm_head" in name or "embed" in name]
    in_groups = {id(one) for group in parameter_groups(model).values() for one in group}
    assert hidden <= in_groups


def test_a_run_with_muon_that_was_stopped_goes_on_bit_by_bit(folder, monkeypatch):
    recipe = with_muon(folder)
    assert train(recipe, folder / "whole") == 0

    from training.trainer import run as run_module

    class Stopped(Exception):  # noqa: N818
        pass

    def save_and_stop(*arguments):
        saved = save_state(*arguments)
        if arguments[1] == 3:
            raise Stopped
        return saved

    save_state = run_module.save_state
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "save_state", save_and_stop)
        with pytest.raises(Stopped):
            train(recipe, folder / "stopped")
    assert train(recipe, folder / "stopped", "--resume") == 0
    weights = [
        load_file(folder / name / "checkpoint" / "model.safetensors")
        for name in ("whole", "stopped")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    plain = folder / "plain"
    assert train(tiny_training.write_recipe(folder, ema=0.9), plain) == 0
    other = load_file(plain / "checkpoint" / "model.safetensors")
    assert any(not torch.equal(weights[0][name], other[name]) for name in other)
