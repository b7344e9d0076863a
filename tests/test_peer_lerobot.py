"""LeRobot's side does the same work as a bundle, seen by the same answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lerobot.policies.molmoact2")

from conftest import REFERENCE, load_cases

from benchmarks.ceiling import Ceiling
from benchmarks.cli import main
from benchmarks.errors import PeerError
from benchmarks.peer_bundle import set_previous
from benchmarks.peer_job import BLOCK, draw_scene
from benchmarks.peer_lerobot import LeRobotModel, load_model
from edge.images import changed_cells
from edge.normalization import choose_tag
from edge.policy import STAGES, Policy

CHECKPOINT = REFERENCE / "three_cameras" / "checkpoint"  # bfloat16, in shards, 9 depth cells
CELLS = 9


@pytest.fixture(scope="module")
def public():
    return LeRobotModel(CHECKPOINT, torch.float32)


@pytest.fixture
def two_threads():
    """With one thread PyTorch resizes with another kernel, off by one level."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_loaded_our_way_the_public_model_gives_what_was_recorded(public, two_threads, monkeypatch):
    previous = None
    for case in load_cases("three_cameras"):
        noise = torch.from_numpy(case.arrays["noise"])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *_shape, noise=noise, **_named: noise.clone())
            actions = public.act(
                case.images,
                case.meta["task"],
                case.arrays["state"],
                case.meta["norm_tag"],
                depth=case.depth != "off",
                previous=previous if case.depth == "incremental" else None,
            )
        np.testing.assert_allclose(actions, case.arrays["actions"][0], atol=1e-3)
        if case.depth != "off":
            np.testing.assert_array_equal(public.codes, case.arrays["depth_codes"][0])
            previous = (case.images[0], public.codes)


def test_both_sides_change_the_same_cells_and_answer_the_same(public, two_threads, bundles):
    policy = Policy.open(bundles("three_cameras"))
    tag = choose_tag(policy.bundle.tags, None)
    state = tag.state.unnormalize(np.zeros(tag.state.dim))
    scene = draw_scene(CELLS, 30, BLOCK, 3, state, seed=0)
    model = policy.bundle.manifest.model
    shape = (1, tag.action_horizon, model.max_action_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7)).numpy()
    given = (scene.pictures, "wipe the table", state, tag.name)
    extent = np.abs(tag.action.unnormalize(np.ones(6)) - tag.action.unnormalize(-np.ones(6)))
    public.act(*given, depth=True)
    codes = public.codes.copy()
    draft = (codes + 1) % model.depth_codes  # every code that is asked again comes out different

    def compare(previous):
        theirs = public.act(*given, depth=True, previous=previous, seed=7)
        policy.reset()
        if previous is not None:
            set_previous(policy, *previous)
        ours = policy.act(*given, depth="incremental", noise=noise)
        np.testing.assert_array_equal(ours.depth_codes, public.codes)
        assert ours.changed_cells == public.call.changed_cells
        assert ours.prompt_tokens == public.prompt_tokens
        assert (np.abs(ours.actions - theirs) / extent).max() <= 0.002

    compare(None)
    assert public.call.depth_passes == CELLS + 2  # start, every code, end
    compare((scene.pictures[0], codes))
    assert public.call.depth_passes == 3  # start, all codes replayed, end
    compare((scene.before, draft))
    seen = changed_cells(scene.pictures[0], scene.before, CELLS)
    assert public.changed == np.flatnonzero(seen).tolist()
    assert public.call.changed_cells == 3


def test_the_stages_of_a_call_add_up_to_it(public):
    case = load_cases("three_cameras")[0]
    for depth in (False, True):
        public.act(case.images, "x", case.arrays["state"], case.meta["norm_tag"], depth=depth)
        assert set(public.call.stages_s) == set(STAGES)
        assert sum(public.call.stages_s.values()) == pytest.approx(public.call.call_s)
        assert min(public.call.stages_s.values()) >= 0
    assert public.call.stages_s["depth"] > 0


def test_weights_are_read_in_the_asked_precision_and_none_is_left_out():
    model = load_model(CHECKPOINT, torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not any(weight.is_meta for weight in model.parameters())


def test_a_checkpoint_with_a_tensor_too_few_is_refused(tmp_path):
    for file in CHECKPOINT.iterdir():
        (tmp_path / file.name).symlink_to(file)
    index = json.loads((CHECKPOINT / "model.safetensors.index.json").read_text())
    kept = sorted(set(index["weight_map"].values()))[0]
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v == kept}
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PeerError, match="are not the public model's"):
        load_model(tmp_path, torch.float32)


def test_the_command_prints_every_side_and_ends_with_json(bundles, capsys, monkeypatch):
    known = Ceiling(threads=1, read_gb_s=2.0, fp32_gflop_s=1.0, int8_gop_s=1.0)
    monkeypatch.setattr("benchmarks.peer.measure_ceiling", lambda _threads: known)
    bundle = str(bundles("three_cameras"))
    assert main(["peer", str(CHECKPOINT), bundle, "--profile", "sim", "--calls", "1"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    report = json.loads(lines[-1])
    assert [side["name"] for side in report["sides"]][:2] == ["lerobot", bundle]
    assert report["threads"] == 1
    assert len(report["changed_cells"]) == 3
    assert "llama.cpp was left out" in report["left_out"][0]  # rows of 56 are no whole blocks
    for side in report["sides"]:
        assert side["watched"]["peak_rss_anon_mib"] > 10
        for figures in side["scenarios"].values():
            assert figures["moved_cells_asked"] in (None, figures["moved_cells"])
    row = next(row for row in report["rows"] if row["name"] == "whole call, first frame")
    assert row["peer_value"] > 0
    assert row["bundles"][bundle]["ratio"] > 0
