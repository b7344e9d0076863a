"""Datasets whose pictures are rarer than actions: each picture comes with its chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lerobot.datasets")

from tiny_dataset import rising, states, write_tiny_dataset

from training.datasets.checks import check_dataset
from training.datasets.dataset_files import DatasetError, open_dataset
from training.datasets.embodiment import load_embodiment
from training.datasets.mixture import MixtureContext
from training.datasets.robot_source import RobotSource
from training.datasets.settings import parse_mixture
from training.openfast.draw import draw_jobs, open_sources

NANO = Path(__file__).parent.parent / "checkpoints" / "nano"
HORIZON, LENGTHS = 30, (4, 3)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two short episodes at 6 Hz; a chunk is longer than both."""
    folder = tmp_path_factory.mktemp("chunks") / "visits"
    return write_tiny_dataset(folder, lengths=LENGTHS, fps=6, chunk_steps=HORIZON)


def expected(episode, frame):
    robot = load_embodiment("so101")
    actions = rising(states(episode, LENGTHS[episode] + 2)[frame + 2], HORIZON)
    return robot.action_frame.model_from_arm(actions)


def test_an_example_has_the_chunk_of_its_picture_none_of_it_padding(recorded):
    settings = parse_mixture({"arm": {"robot": str(recorded), "embodiment": "so101"}}).robots[0]
    source = RobotSource(settings, MixtureContext(0, NANO, NANO / "norm_stats.json"))
    assert source.frames == sum(LENGTHS)
    example = source.example_at(0, LENGTHS[0] + 1, "act", np.random.default_rng(0))
    assert not example.chunk.horizon_is_pad.any()
    normal = source.tag.action.normalize(expected(1, 1).astype(np.float32))
    assert np.allclose(example.chunk.actions, normal, atol=1e-5)


def test_a_tokenizer_is_fitted_on_the_recorded_chunks(recorded):
    source = open_sources([f"{recorded}:so101"], NANO / "norm_stats.json")[0]
    jobs = draw_jobs(source, LENGTHS[0], np.random.default_rng(0), held_out=False)
    chunks = np.concatenate([job.read() for job in jobs])
    assert chunks.shape == (LENGTHS[0], HORIZON, 6)
    for frame in range(LENGTHS[0]):
        normal = source.normalizer.normalize(expected(0, frame).astype(np.float32))
        assert np.allclose(chunks[frame], normal, atol=1e-5)


def test_a_chunk_shorter_than_the_robots_is_refused(tmp_path):
    folder = write_tiny_dataset(tmp_path / "short", lengths=(3,), fps=6, chunk_steps=HORIZON - 1)
    with pytest.raises(DatasetError, match=r"action\.chunk has 29 actions, a chunk of .* has 30"):
        check_dataset(open_dataset(folder), load_embodiment("so101"))


def test_a_chunk_that_is_no_number_is_refused_by_name(tmp_path):
    def broken(action, steps):
        actions = rising(action, steps)
        actions[7, 1] = np.nan
        return actions

    folder = tmp_path / "broken"
    write_tiny_dataset(folder, lengths=(3,), fps=6, chunk_steps=HORIZON, chunk=broken)
    message = r"episode 0 frame 0: action\.chunk\[7\]\[shoulder_lift\.pos\] is nan"
    with pytest.raises(DatasetError, match=message):
        check_dataset(open_dataset(folder), load_embodiment("so101"))
