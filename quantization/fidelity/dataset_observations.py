"""Observations out of a LeRobot v3 dataset, in the checkpoint's joint frame.

Rows and pictures are read, and checked, as they are for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edge.normalization import RobotTag
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.observations import RecordedObservation, Sampling
from training.errors import TrainingError

_RUN = 6  # observations of an episode, where there are episodes enough


def dataset_observations(
    folder: Path, tag: RobotTag, embodiment: str, sampling: Sampling
) -> Iterator[RecordedObservation]:
    """Yield observations of the dataset in `folder`; raise `FidelityError`."""
    try:
        from training.datasets.checks import check_dataset
        from training.datasets.dataset_files import open_dataset
        from training.datasets.embodiment import load_embodiment
        from training.datasets.pictures import PictureReader
    except ModuleNotFoundError as error:
        raise FidelityError(
            f"{folder}: {error.name} is not installed, which reads it; datasets need the "
            "workstation environment ('make setup', then the command in .venv/bin)"
        ) from None

    with _refusals():
        robot = load_embodiment(embodiment)
        if robot.norm_tag != tag.name:
            raise FidelityError(
                f"embodiment {embodiment} has norm tag {robot.norm_tag}, the bundle is asked with "
                f"{tag.name}; give the embodiment the dataset was recorded with"
            )
        cameras = tag.cameras or robot.cameras
        dataset = open_dataset(folder)
        rows = check_dataset(dataset, robot, cameras)
        pictures = PictureReader(dataset)
    stride = max(1, round(sampling.replan_s * dataset.fps))
    for episode, frames in _runs(np.diff(rows.starts), stride, sampling):
        for frame in frames:
            row = int(rows.starts[episode] + frame)
            with _refusals():
                images = tuple(pictures.picture(episode, frame, camera) for camera in cameras)
            yield RecordedObservation(
                episode=episode,
                t_s=frame / dataset.fps,
                images=images,
                task=dataset.tasks[int(rows.tasks[row])],
                state=rows.state[row].astype(np.float64),
            )


def _runs(lengths: np.ndarray, stride: int, sampling: Sampling) -> Iterator[tuple[int, list[int]]]:
    """Give (episode, frames): runs of a seeded choice of episodes, each from a random frame on."""
    random = np.random.default_rng((sampling.seed, len(lengths)))
    run = max(_RUN, -(-sampling.samples // len(lengths)))
    left = sampling.samples
    for episode in random.permutation(len(lengths)):
        if left <= 0:
            return
        length = int(lengths[episode])
        count = min(run, left, 1 + (length - 1) // stride)
        first = int(random.integers(length - (count - 1) * stride))
        yield int(episode), [first + step * stride for step in range(count)]
        left -= count


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise what reading a dataset refuses as this package's own error."""
    try:
        yield
    except TrainingError as error:
        raise FidelityError(str(error)) from None
