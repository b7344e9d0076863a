"""The training loop: what it learns, what it writes, and what makes it stop."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot")

import tiny_training
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from training.trainer import run as run_module
from training.trainer import state
from training.trainer.ema import Ema
from training.trainer.loop import seed_step
from training.trainer.optimizer import build_optimizer, clip_gradients
from training.trainer.recipe import read_recipe
from training.trainer.run_log import read_log
from training.trainer.schedule import rate_share

pytestmark = pytest.mark.usefixtures("one_thread")
RELATIVE = 1e-6  # of losses that are summed in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    tiny_training.make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    recipe = tiny_training.write_recipe(folder)
    assert train(recipe, folder / "run") == 0
    return folder / "run"


def train(recipe, out, *options):
    AcceleratorState._reset_state(reset_partial_state=True)
    return tiny_training.main(["run", str(recipe), "--out", str(out), "--workers", "0", *options])


def refused(capsys, *arguments):
    """Train, expect a refusal, return its one line."""
    assert train(*arguments) == 2
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("molmoact-train: error: ")
    return line


def weights(run):
    return load_file(run / "checkpoint" / "model.safetensors")


def test_the_losses_fall(run):
    figures = tiny_training.losses(run)
    assert figures[-1]["language"] < figures[0]["language"]
    assert figures[-1]["flow"] < figures[0]["flow"]


def test_every_step_says_everything(run):
    figures = read_log(run / "log.jsonl")
    assert [entry["step"] for entry in figures] == list(range(1, 9))
    for entry in figures:
        assert entry["loss"] == pytest.approx(
            entry["language"] + entry["flow"] + entry["log_z"], rel=1e-6
        )
        assert sum(entry["sources"].values()) == 4
        groups = {"vision", "connector", "decoder", "expert"}
        assert set(entry["rates"]) == set(entry["grad_norms"]) == groups
        assert all(norm > 0 for norm in entry["grad_norms"].values())
        assert min(entry["examples_per_s"], entry["tokens_per_s"], entry["memory_gib"]) > 0


def test_a_run_leaves_curves_scalars_states_and_a_checkpoint(run):
    assert (run / "losses.png").stat().st_size > 1000
    assert list((run / "tensorboard").glob("events*"))
    assert [path.name for path in sorted((run / "state").iterdir())] == [
        "step-000006",
        "step-000008",
    ]
    assert not list(run.glob(".*"))
    assert not list((run / "state").glob(".*"))


def test_the_checkpoint_holds_what_was_learnt(run, folder):
    before = load_file(folder / "checkpoint" / "model.safetensors")
    after = weights(run)
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before)


def test_gradient_accumulation_gives_the_same_losses(run, folder):
    recipe = tiny_training.write_recipe(folder, micro_batch_size=1)
    assert train(recipe, folder / "accumulated") == 0
    for one, other in zip(
        tiny_training.losses(run), tiny_training.losses(folder / "accumulated"), strict=True
    ):
        assert other["loss"] == pytest.approx(one["loss"], rel=RELATIVE)


def test_batches_made_ahead_by_a_worker_are_the_same(run, folder):
    recipe = tiny_training.write_recipe(folder)
    assert train(recipe, folder / "worker", "--workers", "1") == 0
    assert tiny_training.losses(folder / "worker") == tiny_training.losses(run)


def test_activations_computed_again_give_the_same_losses(run, folder):
    recipe = tiny_training.write_recipe(folder)
    assert train(recipe, folder / "again", "--checkpoint-activations") == 0
    for one, other in zip(
        tiny_training.losses(run), tiny_training.losses(folder / "again"), strict=True
    ):
        assert other["loss"] == pytest.approx(one["loss"], rel=RELATIVE)


def test_the_checkpoint_of_an_averaged_run_is_the_average(run, folder):
    recipe = tiny_training.write_recipe(folder, ema=0.9)
    assert train(recipe, folder / "averaged") == 0
    assert tiny_training.losses(folder / "averaged") == tiny_training.losses(run)
    start, last = load_file(folder / "checkpoint" / "model.safetensors"), weights(run)
    name = "lm_head.weight"
    average = weights(folder / "averaged")[name]
    way = (last[name] - start[name]).norm()
    assert (average - start[name]).norm() < 0.99 * way
    assert 0.01 * way < (average - last[name]).norm() < 0.5 * way


def test_residual_dropout_is_the_stages_and_not_kept(run, folder):
    recipe = tiny_training.write_recipe(folder, residual_dropout=0.3, steps=4)
    assert train(recipe, folder / "dropped") == 0
    first, plain = tiny_training.losses(folder / "dropped")[0], tiny_training.losses(run)[0]
    assert first["language"] != pytest.approx(plain["language"], rel=1e-3)
    config = json.loads((folder / "dropped" / "checkpoint" / "config.json").read_text())
    assert config["text_config"]["residual_dropout"] == 0.0


def test_an_average_follows_and_steps_aside():
    parameter = torch.nn.Parameter(torch.tensor([0.0]))
    ema = Ema({"weight": parameter}, 0.75)
    with torch.no_grad():
        parameter.fill_(4.0)
    ema.update(1000)
    with ema.in_place():
        assert parameter.item() == 1.0
    assert parameter.item() == 4.0


def test_an_average_forgets_what_it_began_with():
    parameter = torch.nn.Parameter(torch.tensor([100.0]))
    ema = Ema({"weight": parameter}, 0.999)
    with torch.no_grad():
        parameter.fill_(1.0)
    for step in range(100):
        ema.update(step)
    assert ema.averages["weight"].item() == pytest.approx(1.0, abs=1e-3)


def test_a_stage_without_flow_leaves_the_expert_alone(folder):
    losses = {**tiny_training.RECIPE["losses"], "flow": 0.0}
    recipe = tiny_training.write_recipe(folder, flow=None, losses=losses, steps=2)
    assert train(recipe, folder / "words") == 0
    before, after = (
        load_file(folder / "checkpoint" / "model.safetensors"),
        weights(folder / "words"),
    )
    for name, tensor in after.items():
        if "action_expert" in name:
            assert torch.equal(tensor, before[name])
    assert "expert" not in tiny_training.losses(folder / "words")[0]["rates"]


def test_rates_warm_up_and_end_at_their_final_share(folder):
    settings = read_recipe(tiny_training.write_recipe(folder)).optimizer
    shares = [rate_share(step, 100, settings) for step in range(100)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[-1] == pytest.approx(0.1)
    assert shares[1:] == sorted(shares[1:], reverse=True)
    assert shares[50] == pytest.approx(0.55, abs=0.02)


def test_each_group_is_clipped_by_its_own_norm(folder):
    settings = read_recipe(tiny_training.write_recipe(folder)).optimizer
    groups = {name: [torch.nn.Parameter(torch.zeros(4))] for name in ("decoder", "expert")}
    optimizer = build_optimizer(groups, settings)
    groups["decoder"][0].grad = torch.full((4,), 3.0)
    norms = clip_gradients(optimizer, 1.0)
    assert norms["decoder"].item() == 6.0
    assert groups["decoder"][0].grad.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert groups["expert"][0].grad.norm().item() == 0.0


def test_the_largest_seed_and_step_draw_too():
    seed_step(2**31 - 1, 10_000_000, 511)
    one = torch.rand(3)
    seed_step(2**31 - 1, 10_000_000, 510)
    assert not torch.equal(one, torch.rand(3))


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_examples(
    folder, capsys, monkeypatch
):
    chunks = [n for n in range(8, 12) if drawn(n).chunk is not None]
    monkeypatch.setenv("POISONED_EXAMPLE", str(chunks[0]))
    recipe = tiny_training.write_recipe(folder, micro_batch_size=1)
    line = refused(capsys, recipe, folder / "poisoned")
    assert "step 3: loss nan" in line
    assert f"its examples: {chunks[0]} (arm)." in line
    assert len(read_log(folder / "poisoned" / "log.jsonl")) == 2


def drawn(number):
    class Context:
        seed = tiny_training.RECIPE["seed"]

    class Settings:
        shares = {"arm": 0.7, "asked": 0.3}  # noqa: RUF012

    return tiny_training.DrawnExamples(Settings, Context).example(number)


def test_a_run_folder_that_exists_is_left_alone(run, folder, capsys):
    recipe = tiny_training.write_recipe(folder)
    before = (run / "log.jsonl").read_bytes()
    line = refused(capsys, recipe, run)
    assert "already exists; add --resume to go on with it, or choose another --out" in line
    assert (run / "log.jsonl").read_bytes() == before


def test_a_checkpoint_that_is_not_there_is_named_and_no_run_folder_stays(folder, capsys):
    recipe = tiny_training.write_recipe(folder)
    line = refused(capsys, recipe, folder / "none", "--set", f"from={folder / 'missing'}")
    assert f"from: no checkpoint {folder / 'missing'}; run the stage that makes it first" in line
    assert not (folder / "none").exists()


def test_norm_stats_that_are_not_there_are_named(folder, capsys):
    recipe = tiny_training.write_recipe(folder, norm_stats=str(folder / "stats.json"))
    line = refused(capsys, recipe, folder / "none")
    assert (
        f"norm_stats: no file {folder / 'stats.json'}; make it with 'molmoact-train stats'" in line
    )


def test_a_state_that_cannot_be_written_leaves_the_one_before(folder, capsys, monkeypatch):
    save, calls = state.dcp.save, []

    def full_disk(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return save(*args, **kwargs)

    monkeypatch.setattr(state.dcp, "save", full_disk)
    recipe = tiny_training.write_recipe(folder)
    line = refused(capsys, recipe, folder / "full")
    assert "step-000006: cannot be written (No space left on device)" in line
    assert "step-000003 is whole; make room" in line
    monkeypatch.setattr(state.dcp, "save", save)
    assert train(recipe, folder / "full", "--resume") == 0
    assert len(read_log(folder / "full" / "log.jsonl")) == 8


def test_ctrl_c_says_how_to_go_on(folder, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "train", interrupted)
    line = refused(capsys, tiny_training.write_recipe(folder), folder / "interrupted")
    assert "stopped from the keyboard; no state was written yet, go on with --resume" in line
