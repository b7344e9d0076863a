"""Bundles built once a session from the reference checkpoints, and the cases that go with them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory):
    """Keep the black boxes of runs out of the home of who runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@dataclass(frozen=True)
class Case:
    """One call of the public reference."""

    model: str
    name: str
    meta: dict
    arrays: dict[str, np.ndarray]  # this case's outputs and inputs, by short name
    images: list[np.ndarray]

    @property
    def depth(self) -> str:
        if not self.meta["depth_reasoning"]:
            return "off"
        return "incremental" if self.meta["depth_cache_from"] else "full"


@lru_cache
def load_cases(model: str, actions: str = "continuous") -> list[Case]:
    """Read the cases of one reference checkpoint, in the order in which they were made."""
    folder = REFERENCE / model
    with np.load(folder / "cases.npz") as file:
        arrays = dict(file)
    cases = []
    for meta in json.loads((folder / "cases.json").read_text())["cases"]:
        if meta.get("actions", "continuous") != actions:
            continue
        prefix = f"{meta['name']}."
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        images = [arrays[name] for name in meta["images"]]
        cases.append(Case(model, meta["name"], meta, own, images))
    return cases


def reference_models() -> list[str]:
    return sorted(folder.name for folder in REFERENCE.iterdir() if folder.is_dir())


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Give `bundles(model, recipe)`: the path of a built bundle; built on first use."""
    build = pytest.importorskip("quantization.build")
    root = tmp_path_factory.mktemp("bundles")

    def bundle(model: str = "two_cameras", recipe: str = "fp32") -> Path:
        path = root / f"{model}-{recipe}"
        if not path.exists():
            build.build_bundle(REFERENCE / model / "checkpoint", path, recipe)
        return path

    return bundle


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """Give the folder of a LeRobot v3 dataset: three episodes, two cameras; not to be changed."""
    pytest.importorskip("lerobot.datasets")
    from tiny_dataset import write_tiny_dataset

    return write_tiny_dataset(tmp_path_factory.mktemp("datasets") / "tiny")


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one thread: threads that wait for each other on busy cores are slow."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keep what is remembered of good files to this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def copy(bundles, tmp_path):
    """Give a bundle that may be damaged."""
    target = tmp_path / "bundle"
    shutil.copytree(bundles(), target)
    return target


def edit_manifest(bundle: Path, change) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
