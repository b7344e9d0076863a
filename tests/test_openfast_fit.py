"""Fitting an action tokenizer: as LeRobot's, in one process or several, and what is refused."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("transformers")
from edge.action_tokens import ActionTokenizer
from training.errors import OutputExistsError
from training.openfast.errors import OpenFastError
from training.openfast.fit import fit
from training.openfast.open_tokenizer import open_tokenizer
from training.openfast.runners import InThisProcess, open_runner


@dataclass(frozen=True)
class Given:
    """Chunks that are at hand already."""

    chunks: np.ndarray

    def read(self):
        return self.chunks


def reaching(rng, count, horizon=30, dim=6):
    time = np.linspace(0, 1, horizon)[None, :, None]
    blend = 10 * time**3 - 15 * time**4 + 6 * time**5
    start, stop = rng.uniform(-1, 1, (2, count, 1, dim))
    chunks = start + (stop - start) * blend + rng.normal(0, 0.01, (count, horizon, dim))
    return np.clip(chunks, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def jobs():
    rng = np.random.default_rng(3)
    robots = ((30, 6), (15, 8), (10, 7))
    return [Given(reaching(rng, 250, *shape)) for shape in robots for _ in range(2)]


def here(jobs, scale=10, vocab_size=512):
    return fit(jobs, InThisProcess(), scale, vocab_size)


@pytest.mark.parametrize(("scale", "vocab_size"), [(10, 512), (5, 2048), (60.0, 1024)])
def test_a_fit_equals_lerobots_on_the_same_chunks(jobs, tmp_path, scale, vocab_size):
    lerobot = pytest.importorskip(
        "lerobot.policies.molmoact2.molmoact2_hf_model.action_tokenizer"
    ).UniversalActionProcessor
    chunks = [chunk for job in jobs for chunk in job.chunks]
    theirs = lerobot.fit(chunks, scale=scale, vocab_size=vocab_size)
    theirs.bpe_tokenizer.save_pretrained(tmp_path / "theirs")
    here(jobs, scale, vocab_size).save(tmp_path / "ours")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        ours = json.loads((tmp_path / "ours" / name).read_text())
        assert ours == json.loads((tmp_path / "theirs" / name).read_text())
    settings = json.loads((tmp_path / "ours" / "processor_config.json").read_text())
    assert settings == {
        "scale": scale,
        "vocab_size": vocab_size,
        "min_token": theirs.min_token,
        "time_horizon": None,
        "action_dim": None,
    }
    opened = lerobot.from_pretrained_local(str(tmp_path / "ours"))
    assert opened(chunks[0]) == theirs(chunks[0])


def test_what_was_saved_is_what_was_fitted(jobs, tmp_path):
    fitted = here(jobs[:2])
    fitted.save(tmp_path / "folders" / "openfast")
    opened = ActionTokenizer.open(tmp_path / "folders" / "openfast")
    assert (opened.horizon, opened.dim, opened.vocab_size) == (30, 6, 512)
    chunk = jobs[0].chunks[0]
    assert opened.encode(chunk) == fitted.opened().encode(chunk)
    with pytest.raises(OutputExistsError):
        fitted.save(tmp_path / "folders" / "openfast")
    assert [path.name for path in (tmp_path / "folders").iterdir()] == ["openfast"]


def test_two_processes_fit_what_one_does(jobs):
    with open_runner(2, None) as runner:
        there = fit(jobs, runner, 10, 512)
    assert there.tokenizer.to_str() == here(jobs).tokenizer.to_str()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_keep_the_order_of_the_jobs(workers):
    with open_runner(workers, None) as runner:
        assert list(runner.map(partial(pow, exp=2), range(40))) == [n * n for n in range(40)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_job_is_raised_where_its_result_is_asked_for(workers):
    with open_runner(workers, None) as runner, pytest.raises(ValueError, match="invalid literal"):
        list(runner.map(int, ["1", "x", "3"]))


def test_a_vocabulary_smaller_than_the_range_is_refused(jobs):
    with pytest.raises(OpenFastError, match=r"at scale 10, which takes 1\d\d tokens .* has 64"):
        here(jobs, vocab_size=64)


def test_a_vocabulary_that_the_bytes_overflow_is_refused(jobs):
    with pytest.raises(OpenFastError, match=r"coefficients and their bytes take .* has 112"):
        here(jobs, vocab_size=112)


def test_a_checkpoint_without_enough_action_tokens_is_refused(tmp_path):
    tests = Path(__file__).parent
    assert open_tokenizer(tests / "reference_openfast", tests.parent / "checkpoints" / "nano")
    with pytest.raises(
        OpenFastError, match=r"512 tokens, .* no <action_48>; fit one of at most 48"
    ):
        open_tokenizer(
            tests / "reference_openfast", tests / "reference" / "two_cameras" / "checkpoint"
        )
    with pytest.raises(OpenFastError, match=r"processor_config\.json: missing"):
        open_tokenizer(tmp_path)
    with pytest.raises(OpenFastError, match=r"tokenizer\.json: not a tokenizer"):
        open_tokenizer(tests / "reference_openfast", tmp_path)


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(OpenFastError, match="no chunk"):
        here([Given(np.zeros((0, 30, 6), np.float32))])
