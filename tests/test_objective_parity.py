"""Losses and gradients of a pass are LeRobot's, every parameter's, at nano size in float32.

Both sides attend by the same function here, or rounding would hide small faults; PyTorch's fused
attention on CPUs uses a coarser exponential and is compared apart.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")

from public_policy import as_batch, policy_config, public_batch, public_policy, ungated_nano

from training.model.draws import flow_draw
from training.model.load import load_model
from training.model.objective import Objective, step_totals
from training.model.settings import DepthSettings, FlowSettings, LossSettings

RELATIVE = 1e-5  # of the loss; of a gradient's norm
RELATIVE_FUSED = 1e-4
NOISE = 1e-8  # of the whole gradient's norm: what rounding makes of gradients that are 0
SEED, SAMPLES = 11, 3


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return ungated_nano(tmp_path_factory.mktemp("ungated") / "nano")


def given_draws(batch, flow):
    """Draw what the objective draws, for LeRobot: noise (B, K, H, D), times (B, K)."""
    draws = [flow_draw(SEED, int(n), flow, tuple(batch.actions.shape[1:])) for n in batch.numbers]
    noise, times = (np.stack(part) for part in zip(*draws, strict=True))
    return torch.from_numpy(noise), torch.from_numpy(times)


def assert_same_gradients(ours, theirs, relative=RELATIVE):
    theirs = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    whole = torch.stack([grad.norm() for grad in theirs.values()]).norm()
    for name, parameter in ours.named_parameters():
        expected = theirs.get(name, torch.zeros_like(parameter))
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        allowed = relative * expected.norm() + NOISE * whole
        assert (grad - expected).norm() <= allowed, name


@pytest.mark.parametrize("mode", ["both", "continuous"])
@pytest.mark.parametrize("insulation", [False, True])
def test_a_pass_equals_lerobots_policy(checkpoint, mode, insulation):
    settings = {
        "action_mode": mode,
        "enable_knowledge_insulation": insulation,
        "num_flow_timesteps": SAMPLES,
    }
    packed = public_batch(policy_config(checkpoint, **settings))
    batch = as_batch(packed)
    flow = FlowSettings(samples=SAMPLES, insulation=insulation)
    noise, times = given_draws(batch, flow)
    policy = public_policy(checkpoint, **settings)
    their_flow, hidden = policy._compute_flow_matching_loss_joint_per_layer(
        batch=packed, model_inputs=policy._model_inputs(packed), noise=noise, timesteps=times
    )
    their_loss, their_language, their_log_z = their_flow, 0.0, 0.0
    if mode == "both":
        outputs = SimpleNamespace(last_hidden_state=hidden)
        language = policy._discrete_loss_from_backbone_outputs(packed, outputs)
        their_loss = their_loss + sum(language)
        their_language, their_log_z = (part.item() for part in language)
    their_loss.backward()

    model = load_model(checkpoint, fast_attention=False)
    losses = LossSettings(language=1.0 if mode == "both" else 0.0)
    objective = Objective(model, losses, flow, DepthSettings(code_noise=0.0), SEED).train()
    ours = objective(batch, step_totals([batch]))
    ours.loss.backward()

    assert float(ours.flow) == pytest.approx(their_flow.item(), rel=RELATIVE)
    assert float(ours.language) == pytest.approx(their_language, rel=RELATIVE)
    assert float(ours.log_z) == pytest.approx(their_log_z, rel=RELATIVE)
    assert ours.loss.item() == pytest.approx(their_loss.item(), rel=RELATIVE)
    assert_same_gradients(model, policy.model)


@pytest.mark.parametrize("masked", [False, True])
def test_even_weights_give_the_reference_models_own_language_loss(checkpoint, masked):
    packed = public_batch(policy_config(checkpoint, action_mode="both"))
    if masked:  # LeRobot 0.6.1 lets padding count as text; it should not
        learnt = (packed["labels"] != -100).long()
        packed["attention_mask"] = learnt.flip(1).cummax(dim=1).values.flip(1)
        assert 0 in packed["attention_mask"]
    batch = as_batch(packed)
    theirs = load_model(checkpoint, fast_attention=False)
    outputs = theirs(**batch.model_inputs, labels=batch.labels, use_cache=False)
    outputs.loss.backward()

    model = load_model(checkpoint, fast_attention=False)
    losses = LossSettings(flow=0.0, log_z=0.0, token_weighting="none")
    objective = Objective(model, losses, FlowSettings(), DepthSettings(), SEED)
    ours = objective(batch, step_totals([batch], "none"))
    ours.loss.backward()
    assert float(ours.language) == pytest.approx(outputs.loss.item(), rel=RELATIVE)
    assert_same_gradients(model, theirs)


def test_fused_attention_learns_the_same(checkpoint):
    batch = as_batch(public_batch(policy_config(checkpoint, action_mode="both")))
    models = [load_model(checkpoint, fast_attention=fast) for fast in (False, True)]
    losses = []
    for model in models:
        objective = Objective(model, LossSettings(), FlowSettings(), DepthSettings(), SEED)
        losses.append(objective(batch, step_totals([batch])).loss)
        losses[-1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=RELATIVE)
    assert_same_gradients(models[1], models[0], RELATIVE_FUSED)
