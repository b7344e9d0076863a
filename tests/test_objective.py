"""What a pass over a batch gives, however the step is cut up and whatever the batch lacks."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")

from make_reference import TILED
from model_batches import a_batch, rows_of
from test_objective_parity import assert_same_gradients

from training.examples.collate import Collator
from training.examples.example import Example
from training.init.init_checkpoint import init_checkpoint
from training.init.sizes import NANO, DepthGate
from training.model.draws import code_draw
from training.model.load import load_model
from training.model.objective import Objective, StepTotals, step_totals
from training.model.settings import DepthSettings, FlowSettings, LossSettings, SettingsError

SEED = 3
UNITS = ("MolmoAct2DecoderLayer", "MolmoAct2VisionBlock", "ActionExpertBlock")
DEPTH = DepthSettings(code_noise=0.1)
FLOW = FlowSettings(samples=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objective") / "nano"
    init_checkpoint(folder, NANO, seed=2, dtype="fp32", max_shard_mib=100)
    return folder


@pytest.fixture
def model(checkpoint):
    return load_model(checkpoint)


def gradients(objective, batches, totals=None):
    """Run a step of several passes; give the sum of the losses and the gradients by name."""
    objective.zero_grad()
    totals = totals or step_totals(batches)
    losses = [objective(batch, totals) for batch in batches]
    for part in losses:
        part.loss.backward()
    grads = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    return sum(part.loss.item() for part in losses), grads


def assert_close(ours, theirs, relative=1e-4):
    assert ours.keys() == theirs.keys()
    whole = torch.stack([grad.norm() for grad in theirs.values()]).norm()
    for name, grad in theirs.items():
        assert (ours[name] - grad).norm() <= relative * grad.norm() + 1e-6 * whole, name


def test_a_step_cut_into_passes_has_the_same_loss_and_gradients(model):
    kinds = ["act", "depth_act", "question", "discrete", "text"]
    whole = a_batch(model, kinds)
    objective = Objective(model, LossSettings(), FLOW, DEPTH, SEED).train()
    loss, expected = gradients(objective, [whole])
    parts = [rows_of(whole, rows) for rows in ([4, 2], [0], [3, 1])]
    cut_loss, cut = gradients(objective, parts)
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    assert_close(cut, expected)


def test_padding_and_neighbours_do_not_matter(model):
    kinds = ["act", "depth_act"]
    batch = a_batch(model, kinds)
    objective = Objective(model, LossSettings(), FLOW, DEPTH, SEED).train()
    alone = objective(rows_of(batch, [0]), StepTotals(1.0, 1.0))
    both = objective(batch, StepTotals(1.0, 1.0))
    other = objective(rows_of(batch, [1]), StepTotals(1.0, 1.0))
    assert both.flow.item() == pytest.approx(alone.flow.item() + other.flow.item(), rel=1e-5)


def test_earlier_layers_answer_as_a_model_that_ends_there_would(checkpoint):
    """The loss on top is the mean over models cut off after layers 2 and 3 of 4."""
    losses = LossSettings(flow=0.0)
    cut_losses, cut_grads = [], []
    for layers in (2, 3, 4):
        cut = load_model(checkpoint)
        batch = a_batch(cut, ["question", "discrete"])
        cut.model.transformer.blocks = cut.model.transformer.blocks[:layers]
        loss, grads = gradients(Objective(cut, losses, FLOW, DEPTH, SEED), [batch])
        cut_losses.append(loss)
        cut_grads.append(grads)
    model = load_model(checkpoint)
    losses = dataclasses.replace(losses, earlier_layers=0.5)
    loss, grads = gradients(Objective(model, losses, FLOW, DEPTH, SEED), [batch])
    shares = (0.25, 0.25, 1.0)
    assert loss == pytest.approx(np.dot(shares, cut_losses), rel=1e-5)
    expected = {
        name: sum(s * g[name] for s, g in zip(shares, cut_grads, strict=True) if name in g)
        for name in cut_grads[-1]
    }
    assert_close(grads, expected)


def test_examples_without_a_chunk_do_not_count_for_the_flow(model):
    batch = a_batch(model, ["act", "question", "discrete"])
    objective = Objective(model, LossSettings(), FLOW, DEPTH, SEED)
    assert step_totals([batch]).chunks == 2
    with_question = objective(batch, StepTotals(1.0, 2.0)).flow
    batch.actions[1] = float("nan")
    assert torch.equal(objective(batch, StepTotals(1.0, 2.0)).flow, with_question)


@pytest.mark.parametrize(
    ("kinds", "dead"), [(["text", "question"], "action_expert"), (["act", "act"], "lm_head")]
)
def test_a_batch_without_chunks_or_labels_reaches_only_what_it_can(model, kinds, dead):
    batch = a_batch(model, kinds)
    objective = Objective(model, LossSettings(), FlowSettings(insulation=False), DEPTH, SEED)
    _, grads = gradients(objective, [batch])
    assert grads
    assert not any(dead in name for name in grads)


def test_a_batch_with_nothing_to_learn_costs_nothing_and_can_go_backwards(model):
    batch = a_batch(model, ["act"])
    batch.has_actions[:] = False
    loss, grads = gradients(Objective(model, LossSettings(), FLOW, DEPTH, SEED), [batch])
    assert (loss, grads) == (0.0, {})


@pytest.mark.parametrize("kinds", [["text", "text"], ["act"], ["question"]])
def test_every_part_runs_when_processes_must_do_the_same_and_changes_no_gradient(model, kinds):
    batch = a_batch(model, kinds)
    flow = FlowSettings(insulation=False)
    plain_loss, plain = gradients(Objective(model, LossSettings(), flow, DEPTH, SEED), [batch])
    objective = Objective(model, LossSettings(), flow, DEPTH, SEED, every_part=True)
    loss, grads = gradients(objective, [batch])
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    assert {n for n, p in objective.named_parameters()} == set(grads)
    assert_close({name: grads[name] for name in plain}, plain)
    assert all(not grads[name].any() for name in grads.keys() - plain.keys())


@pytest.mark.parametrize("kinds", [["text"], ["question"], ["act"]])
def test_with_every_part_modules_run_in_one_order_whatever_the_batch_lacks(model, kinds):
    """Processes that gather parameters wait for each other, module by module."""
    ran = []
    for name, module in model.named_modules():
        if type(module).__name__ in UNITS:
            module.register_forward_pre_hook(lambda _m, _a, name=name: ran.append(name))
    objective = Objective(model, LossSettings(), FLOW, DEPTH, SEED, every_part=True)
    batches = a_batch(model, ["depth_act", "question"]), a_batch(model, kinds)
    for batch in batches:
        objective(batch, StepTotals(1.0, 1.0))
    half = len(ran) // 2
    assert ran[:half] == ran[half:]
    assert len(set(ran)) == half == 4 + 4 + 4


def test_recomputing_activations_changes_no_gradient(checkpoint):
    losses = []
    models = [load_model(checkpoint) for _ in range(2)]
    for model, recompute in zip(models, (False, True), strict=True):
        batch = a_batch(model, ["depth_act", "discrete"])
        flow = FlowSettings(insulation=False)
        objective = Objective(model, LossSettings(), flow, DEPTH, SEED, recompute=recompute)
        losses.append(objective.train()(batch, step_totals([batch])).loss)
        losses[-1].backward()
    assert losses[0].item() == losses[1].item()
    assert_same_gradients(models[1], models[0])


def test_insulation_stops_the_experts_gradients_at_keys_and_values(model):
    batch = a_batch(model, ["depth_act"])
    losses = LossSettings(language=0.0)
    _, grads = gradients(Objective(model, losses, FlowSettings(), DEPTH, SEED), [batch])
    assert {name.split(".")[2] for name in grads} == {"action_expert", "action_expert_depth_gate"}


def test_discrete_actions_and_the_end_of_the_answer_are_hidden_from_the_expert(model):
    batch = a_batch(model, ["discrete"])
    objective = Objective(model, LossSettings(), FLOW, DEPTH, SEED)
    before = objective(batch, StepTotals(1.0, 1.0)).flow
    config, ids = model.config, batch.model_inputs["input_ids"]
    actions = (ids >= config.action_token_start_id) & (batch.labels != -100)
    ids[actions] = torch.where(ids[actions] > 1000, ids[actions] - 1, ids[actions])
    assert objective(batch, StepTotals(1.0, 1.0)).flow.item() == pytest.approx(before.item())
    model.config.action_mode = model.model.config.action_mode = "continuous"
    assert objective(batch, StepTotals(1.0, 1.0)).flow.item() != 0
    visible = objective._visible(batch, torch.tensor([0]))[0]
    assert not visible[batch.labels[0] != -100].any()
    assert visible[batch.labels[0] == -100].all()


def test_code_noise_swaps_inputs_of_learnt_codes_only_by_example_number(model):
    batch = a_batch(model, ["depth_act", "discrete", "depth_act"])
    objective = Objective(model, LossSettings(), FLOW, DepthSettings(code_noise=0.3), SEED).train()
    ids, noisy = batch.model_inputs["input_ids"], objective._noisy_ids(batch)
    changed = noisy != ids
    codes = (ids >= 2944) & (ids < 2944 + 128)
    assert not changed[~codes].any()
    assert not changed[1].any()
    share = changed[codes].float().mean()
    assert 0.2 < share < 0.4
    assert ((noisy[changed] >= 2944) & (noisy[changed] < 2944 + 128)).all()
    assert torch.equal(objective._noisy_ids(rows_of(batch, [2]))[0], noisy[2])
    assert torch.equal(objective.eval()._noisy_ids(batch), ids)


def test_an_examples_code_noise_does_not_depend_on_how_far_its_batch_is_padded():
    short, long = (code_draw(SEED, 5, 0.1, length, 128) for length in (300, 340))
    for of_short, of_long in zip(short, long, strict=True):
        np.testing.assert_array_equal(of_short, of_long[:300])
    assert len(np.unique(long[1])) > 100


@pytest.mark.parametrize("kind", [DepthGate.PER_LAYER, DepthGate.SHARED])
def test_the_gate_is_the_reference_models(tmp_path, kind):
    folder = tmp_path / "gated"
    size = dataclasses.replace(NANO, depth_gate=kind)
    init_checkpoint(folder, size, seed=2, dtype="fp32", max_shard_mib=100)
    model = load_model(folder)
    backbone = model.model
    gates = backbone.action_expert_depth_gate
    for gate in gates if kind is DepthGate.PER_LAYER else [gates]:
        torch.nn.init.normal_(gate.weight, std=0.5)
    batch = a_batch(model, ["depth_act"])
    seen = []
    for block in backbone.action_expert.blocks:
        block.cross_attn.register_forward_hook(
            lambda _m, _a, named, _o: seen.append(named), with_kwargs=True
        )
    objective = Objective(model, LossSettings(), FlowSettings(samples=1), DepthSettings(0.0), SEED)
    objective(batch, step_totals([batch]))
    outputs = backbone(**batch.model_inputs, use_cache=True)
    states = backbone._extract_kv_states(outputs.past_key_values)
    ids = batch.model_inputs["input_ids"]
    visible = backbone._get_encoder_attention_mask(ids, batch.model_inputs["attention_mask"])
    gate, mask = backbone._depth_gate_from_condition(
        input_ids=ids, encoder_attention_mask=visible, layer_kv_states=states
    )
    assert 0 < gate[0].item() < 1
    gated = backbone._apply_depth_gate_to_layer_kv_states(states, mask, gate)
    assert not torch.equal(gated[0][1], states[0][1])
    expected = backbone.action_expert._prepare_kv_context(gated)
    for (keys, values), given in zip(expected, seen, strict=True):
        torch.testing.assert_close(given["kv_k"], keys, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(given["kv_v"], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["eager", "sdpa"])
def test_each_picture_alone_gives_what_padding_to_the_fullest_example_gives(tmp_path, pooling):
    folder = tmp_path / "tiled"
    init_checkpoint(folder, TILED, seed=4, dtype="fp32", max_shard_mib=100)
    config = json.loads((folder / "config.json").read_text())
    config["adapter_config"]["attn_implementation"] = pooling
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder)
    rng = np.random.default_rng(0)
    sizes = [(90, 50), (60, 80), (72, 72)]
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    examples = [
        Example(number, "x", tuple(images), "what is it?", "a cube<|im_end|>", None)
        for number, images in enumerate((pictures[:2], pictures[2:]))
    ]
    batch = Collator(folder)(examples)
    assert len(set(batch.model_inputs["image_num_crops"].tolist())) > 1
    objective = Objective(model, LossSettings(flow=0), FLOW, DEPTH, SEED)
    (hidden,), _ = objective._read(batch, with_keys_values=False)
    expected = model.model(**batch.model_inputs, use_cache=False).last_hidden_state
    seen = batch.model_inputs["attention_mask"].bool()
    torch.testing.assert_close(hidden[seen], expected[seen], rtol=1e-4, atol=1e-4)
    objective(batch, step_totals([batch])).loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


def test_bfloat16_autocast_is_near_float32(model):
    batch = a_batch(model, ["depth_act", "discrete", "question"])
    objective = Objective(model, LossSettings(), FLOW, DEPTH, SEED).train()
    exact = objective(batch, step_totals([batch]))
    with torch.autocast("cpu", torch.bfloat16):
        near = objective(batch, step_totals([batch]))
    near.loss.backward()
    assert near.language.item() == pytest.approx(exact.language.item(), rel=0.01)
    assert near.flow.item() == pytest.approx(exact.flow.item(), rel=0.02)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


def test_a_flow_loss_without_an_expert_is_refused(model):
    model.model.action_expert = None
    with pytest.raises(SettingsError, match=r"no action expert; graft one or set losses\.flow"):
        Objective(model, LossSettings(), FLOW, DEPTH, SEED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossSettings(flow=-1.0), r"losses\.flow is -1\.0; must be at least 0"),
        (lambda: LossSettings(language=0, flow=0), "both 0: nothing to learn"),
        (lambda: LossSettings(token_weighting="x"), "'x'; choose one of: root_tokens, none"),
        (lambda: FlowSettings(samples=0), r"flow\.samples is 0; must be at least 1"),
        (lambda: FlowSettings(scale=1.0), "their sum at most 1"),
        (lambda: DepthSettings(code_noise=1.0), "at least 0 and below 1"),
        (lambda: DepthSettings(gate="all"), "none, shared, per-layer"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(SettingsError, match=message):
        make()
