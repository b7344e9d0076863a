"""Fitting on a Ray cluster of one machine gives what fitting here gives."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("scipy")
from training.errors import TrainingError
from training.openfast.errors import OpenFastError
from training.openfast.fit import fit
from training.openfast.runners import InThisProcess, open_runner

# The cluster lives as long as this program, and this program as long as its input stays open.
CLUSTER = """
import sys, tempfile
import ray
with tempfile.TemporaryDirectory() as folder:
    node = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
                    object_store_memory=80_000_000)
    print(node.address_info["gcs_address"], flush=True)
    sys.stdin.read()
    ray.shutdown()
"""


@pytest.fixture(scope="module")
def cluster():
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parent)},
    ) as program:
        yield program.stdout.readline().strip()
        program.stdin.close()


@dataclass(frozen=True)
class Waves:
    """Chunks of a seed."""

    seed: int

    def read(self):
        rng = np.random.default_rng(self.seed)
        walk = np.cumsum(rng.normal(0, 0.1, (60, 15, 8)), axis=1)
        return np.clip(walk, -1, 1).astype(np.float32)


@dataclass(frozen=True)
class Spoilt:
    """Chunks that cannot be read."""

    def read(self):
        raise TrainingError("episode 3, frame 7: action[2] is nan")


def test_a_fit_on_ray_equals_a_fit_here(cluster):
    jobs = [Waves(seed) for seed in range(5)]
    with open_runner(1, cluster) as runner:
        there = fit(jobs, runner, 10, 512)
        with pytest.raises(TrainingError, match=r"^episode 3, frame 7: action\[2\] is nan$"):
            fit([Waves(0), Spoilt()], runner, 10, 512)
    assert there.tokenizer.to_str() == fit(jobs, InThisProcess(), 10, 512).tokenizer.to_str()


def test_a_cluster_that_is_not_there_is_one_line():
    with pytest.raises(OpenFastError, match=r"no Ray cluster at 127\.0\.0\.1:9:") as raised:
        open_runner(1, "127.0.0.1:9").__enter__()
    assert "\n" not in str(raised.value)
