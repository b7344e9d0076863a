"""norm_stats.json is exact, in the checkpoint's frame, and what the robot's own reader takes."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("lerobot.datasets")

import pyarrow.parquet as pq

from edge.normalization import parse_tags
from training.cli import main
from training.datasets.norm_stats import feature_stats

TAG = "so100_so101_molmoact2"
ARM_KEYS = {"state": "observation.state", "action": "action"}


@pytest.fixture(scope="module")
def written(tiny_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("stats") / "norm_stats.json"
    assert main(["stats", str(tiny_dataset), "--embodiment", "so101", "--out", str(out)]) == 0
    return out


def stored(dataset, key):
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    return np.array(table[key].to_pylist(), np.float64)


@pytest.mark.parametrize("kind", ["state", "action"])
def test_the_figures_are_those_of_all_frames_in_the_checkpoints_frame(tiny_dataset, written, kind):
    stats = json.loads(written.read_text())["metadata_by_tag"][TAG][f"{kind}_stats"]
    values = stored(tiny_dataset, ARM_KEYS[kind]) * [1, -1, 1, 1, 1, 1] + [0, 90, 90, 0, 0, 0]
    for key, expected in (
        ("mean", values.mean(0)),
        ("std", values.std(0)),
        ("min", values.min(0)),
        ("max", values.max(0)),
        ("q01", np.quantile(values, 0.01, axis=0)),
        ("q10", np.quantile(values, 0.10, axis=0)),
        ("q50", np.quantile(values, 0.50, axis=0)),
        ("q90", np.quantile(values, 0.90, axis=0)),
        ("q99", np.quantile(values, 0.99, axis=0)),
    ):
        np.testing.assert_allclose(stats[key], expected, atol=1e-4, err_msg=key)
    assert stats["mask"] == [True] * 6
    assert stats["names"][1] == "shoulder_lift.pos"


def test_the_robots_own_reader_takes_the_file(tiny_dataset, written):
    tag = parse_tags(json.loads(written.read_text()), 30, 32)[TAG]
    assert (tag.action_horizon, tag.n_action_steps) == (30, 30)
    assert tag.cameras == ("observation.images.front", "observation.images.wrist")
    assert tag.setup == "single so100/so101 robotic arm in molmoact2"
    assert tag.control == "absolute joint pose"
    values = stored(tiny_dataset, "action") * [1, -1, 1, 1, 1, 1] + [0, 90, 90, 0, 0, 0]
    norm = tag.action.normalize(values)
    assert 0.01 < np.mean(np.abs(norm) == 1) < 0.05  # 2 % lie past q01 or q99
    inside = np.abs(norm) < 1
    np.testing.assert_allclose(tag.action.unnormalize(norm)[inside], values[inside], atol=1e-3)


def test_lerobots_estimates_agree():
    """LeRobot counts in histograms of 5000 bins, which it stretches as values come."""
    from lerobot.datasets.compute_stats import RunningQuantileStats

    values = np.random.default_rng(0).normal([0, 50, -20], [1, 10, 5], (20_000, 3))
    running = RunningQuantileStats()
    for part in np.split(values, 20):
        running.update(part)
    estimated = running.get_statistics()
    exact = feature_stats(values, ("a", "b", "c"), (True, True, False))
    bin_width = np.ptp(values, axis=0) / 5000
    for key in ("q01", "q10", "q50", "q90", "q99"):
        assert (np.abs(estimated[key] - exact[key]) < 25 * bin_width).all(), key
    for key in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(estimated[key], exact[key], rtol=1e-5, atol=1e-5)
    assert exact["mask"] == [True, True, False]


def test_datasets_are_merged_frame_by_frame(tiny_dataset, tmp_path):
    from tiny_dataset import write_tiny_dataset

    long = write_tiny_dataset(tmp_path / "long", lengths=(400,), video=True)
    out = tmp_path / "both.json"
    command = ["stats", str(tiny_dataset), str(long), "--embodiment", "so101", "--out", str(out)]
    assert main(command) == 0
    stats = json.loads(out.read_text())["metadata_by_tag"][TAG]["action_stats"]
    both = np.concatenate([stored(tiny_dataset, "action"), stored(long, "action")])
    np.testing.assert_allclose(stats["q10"][0], np.quantile(both[:, 0], 0.1), atol=1e-4)
    np.testing.assert_allclose(stats["mean"][0], both[:, 0].mean(), atol=1e-4)


def test_a_gripper_that_is_passed_through_is_masked(tiny_dataset, tmp_path):
    from importlib import resources

    preset = resources.files("training").joinpath("embodiments", "so101.yaml").read_text()
    own = tmp_path / "mine.yaml"
    own.write_text(
        preset.replace("normalize_gripper: true", "normalize_gripper: false")
        .replace("gripper.pos", "jaw_gripper")
        .replace("norm_tag: so100_so101_molmoact2", "norm_tag: mine")
    )
    from training.datasets.embodiment import load_embodiment

    embodiment = load_embodiment(str(own))
    assert embodiment.mask(embodiment.action_names).tolist() == [True] * 5 + [False]


def test_other_tags_are_kept_beside(tiny_dataset, written, tmp_path, capsys):
    content = json.loads(written.read_text())
    content["metadata_by_tag"] = {"other": content["metadata_by_tag"][TAG]}
    (tmp_path / "other.json").write_text(json.dumps(content))
    command = ["stats", str(tiny_dataset), "--embodiment", "so101", "--beside"]
    out = tmp_path / "both.json"
    assert main([*command, str(tmp_path / "other.json"), "--out", str(out)]) == 0
    assert set(json.loads(out.read_text())["metadata_by_tag"]) == {"other", TAG}
    assert main([*command, str(out), "--out", str(tmp_path / "again.json")]) == 2
    assert f"it has the tag {TAG} already; leave --beside out" in capsys.readouterr().err


def test_a_file_is_never_overwritten_and_an_error_is_one_line(
    tiny_dataset, written, tmp_path, capsys
):
    command = ["stats", str(tiny_dataset), "--embodiment", "so101", "--out"]
    assert main([*command, str(written)]) == 2
    assert capsys.readouterr().err.strip().endswith("choose another output path")
    assert main([*command, str(tmp_path / "new.json"), "--cameras", "observation.images.top"]) == 2
    error = capsys.readouterr().err
    assert "no camera observation.images.top" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
