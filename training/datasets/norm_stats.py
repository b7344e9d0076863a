"""Compute `norm_stats.json`: what -1 and +1 mean for each dim of a robot's states and actions.

Exact over all frames of all datasets, in the checkpoint's joint frame. (LeRobot's own `stats.json`
estimates quantiles by histograms, averages them over episodes, and is in the dataset's frame.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import BundleError, EdgeError
from edge.json_file import read_json
from edge.normalization import parse_tags
from training.datasets.checks import CheckedRows, check_dataset
from training.datasets.dataset_files import DatasetError, open_dataset
from training.datasets.embodiment import Embodiment
from training.whole_folder import make_parent, refuse_taken

FORMAT = "molmoact2_norm_stats.v1"
NORM_MODE = "q01_q99"
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_MAX_STATS_BYTES = 64 << 20
_DECIMALS = 6


def dataset_stats(
    folders: Sequence[Path], embodiment: Embodiment, cameras: Sequence[str] | None = None
) -> dict[str, Any]:
    """Give the content of norm_stats.json with one tag, over all datasets together.

    `cameras` are feature keys in prompt order, the embodiment's by default. Raises `DatasetError`.
    """
    cameras = list(embodiment.cameras if cameras is None else cameras)
    parts = [
        check_dataset(open_dataset(folder), embodiment, cameras, min_frames=1) for folder in folders
    ]
    return {
        "format": FORMAT,
        "norm_mode": NORM_MODE,
        "metadata_by_tag": {embodiment.norm_tag: _tag(parts, embodiment, cameras)},
    }


def feature_stats(
    values: np.ndarray, names: Sequence[str], mask: Sequence[bool]
) -> dict[str, list[Any]]:
    """Describe (frames, dims) values; one number a dim in every list."""
    values = np.asarray(values, np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    stats = {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
    numbers = {key: np.round(value, _DECIMALS).tolist() for key, value in stats.items()}
    return {**numbers, "mask": [bool(value) for value in mask], "names": list(names)}


def with_tags_of(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Put the tags of another norm_stats.json beside those of `content`.

    A tag that both have is refused: a robot has one meaning of -1 and +1.
    """
    try:
        other = read_json(file, _MAX_STATS_BYTES)
        parse_tags(other, max_horizon=1 << 20, max_dim=1 << 20)
    except BundleError as error:
        raise DatasetError(stats_problem(file, error)) from None
    if other["norm_mode"] != content["norm_mode"]:
        raise DatasetError(f"{file}: norm_mode is {other['norm_mode']}; {NORM_MODE} is needed")
    tags = content["metadata_by_tag"]
    for tag in other["metadata_by_tag"]:
        if tag in tags:
            raise DatasetError(f"{file}: it has the tag {tag} already; leave --beside out")
    return {**content, "metadata_by_tag": {**other["metadata_by_tag"], **tags}}


def stats_problem(file: Path, error: EdgeError) -> str:
    """Say what is wrong with a file of statistics that is in no checkpoint and in no bundle."""
    problem = str(error).removeprefix("norm_stats.json: ").removeprefix(f"{file}: ")
    for remedy in ("copy or build the bundle again", "build the bundle again"):
        problem = problem.replace(remedy, "make it again with 'molmoact-train stats'")
    return f"{file}: {problem}"


def write_norm_stats(content: dict[str, Any], out: Path) -> None:
    """Write the file, whole or not at all; raise `OutputExistsError`."""
    parse_tags(content, max_horizon=1 << 20, max_dim=1 << 20)
    refuse_taken(out)
    make_parent(out)
    hidden = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        hidden.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        hidden.rename(out)
    finally:
        hidden.unlink(missing_ok=True)


def _tag(
    parts: Sequence[CheckedRows], embodiment: Embodiment, cameras: list[str]
) -> dict[str, Any]:
    state_names, action_names = embodiment.state_names, embodiment.action_names
    return {
        "action_key": embodiment.action_key,
        "state_keys": [embodiment.state_key],
        "camera_keys": cameras,
        "normalize_gripper": embodiment.normalize_gripper,
        "action_dim": len(action_names),
        "action_horizon": embodiment.horizon,
        "n_action_steps": embodiment.n_action_steps,
        "setup_type": embodiment.setup,
        "control_mode": embodiment.control,
        "action_stats": feature_stats(
            np.concatenate([part.action for part in parts]),
            action_names,
            embodiment.mask(action_names),
        ),
        "state_stats": feature_stats(
            np.concatenate([part.state for part in parts]),
            state_names,
            embodiment.mask(state_names),
        ),
    }
