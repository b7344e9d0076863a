"""A trained checkpoint acts alike in LeRobot's model and, as a bundle, on the robot."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")
build = pytest.importorskip("quantization.build")

from lerobot.policies.molmoact2.processor_molmoact2 import _load_local_molmoact2_processor
from model_batches import a_batch
from public_policy import public_policy

from edge.normalization import choose_tag
from edge.policy import Policy
from training.init.init_checkpoint import init_checkpoint
from training.init.sizes import NANO
from training.model.load import load_model
from training.model.objective import Objective, step_totals
from training.model.save import save_checkpoint
from training.model.settings import DepthSettings, FlowSettings, LossSettings

STEPS = 3
SHARE_OF_RANGE = 0.002  # of a joint's q01..q99


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("actions") / "nano"
    init_checkpoint(folder, NANO, seed=0, dtype="fp32", max_shard_mib=100)
    return folder


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def trained(untrained, tmp_path_factory, request):
    """Train all of it for some steps, depth codes and chunks, and write it."""
    model = load_model(untrained)
    objective = Objective(model, LossSettings(), FlowSettings(), DepthSettings(), 0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(STEPS):
        batch = a_batch(model, ["depth_act", "act"], first_number=2 * step)
        objective(batch, step_totals([batch])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    out = tmp_path_factory.mktemp("trained") / "checkpoint"
    save_checkpoint(model, untrained, out, request.param, max_shard_mib=4)
    return out


def act(model, checkpoint, images, state, tag, *, depth, seed):
    result = model.predict_action(
        processor=_load_local_molmoact2_processor(str(checkpoint)),
        images=images,
        task="Put the cube in the bin.",
        state=state.astype(np.float32),
        norm_tag=tag,
        inference_action_mode="continuous",
        enable_depth_reasoning=depth,
        enable_cuda_graph=False,
        generator=torch.Generator().manual_seed(seed),
    )
    codes = result.depth_bins[0].numpy() if depth else None
    return result.actions[0].float().numpy(), codes


def test_lerobots_policy_and_the_bundle_give_the_same_actions(trained, untrained, tmp_path):
    public = public_policy(trained, action_mode="both").model.eval()
    build.build_bundle(trained, tmp_path / "bundle", "fp32")
    policy = Policy.open(tmp_path / "bundle")
    tag = choose_tag(policy.bundle.tags, None)
    rng = np.random.default_rng(0)
    side = NANO.vision.image_size_px  # nothing to resize, which PyTorch does apart on one thread
    images = [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in NANO.cameras]
    state = tag.state.unnormalize(rng.uniform(-0.5, 0.5, tag.state.dim))
    extent = np.abs(tag.action.unnormalize(np.ones(6)) - tag.action.unnormalize(-np.ones(6)))
    shape = (1, NANO.expert.horizon, NANO.expert.max_action_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5)).numpy()
    before = load_model(untrained).eval()
    for depth in ("off", "full"):
        given = {"depth": depth == "full", "seed": 5}
        theirs, codes = act(public, trained, images, state, tag.name, **given)
        policy.reset()
        ours = policy.act(images, "Put the cube in the bin.", state, depth=depth, noise=noise)
        assert (np.abs(ours.actions - theirs) / extent).max() <= SHARE_OF_RANGE
        if depth == "full":
            np.testing.assert_array_equal(ours.depth_codes, codes)
        old, _ = act(before, untrained, images, state, tag.name, **given)
        assert (np.abs(old - theirs) / extent).max() > 5 * SHARE_OF_RANGE  # training did something
