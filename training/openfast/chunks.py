"""Chunks of actions as a policy learns them: in the checkpoint's joint frame, in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.joint_frame import JointFrame
from edge.normalization import Normalizer
from training.openfast.dataset import ActionDataset, ActionFile

_RANGE_FRAMES = 2_000_000  # from which a dataset's quantiles are taken


@dataclass(frozen=True, slots=True)
class DatasetChunks:
    """Some chunks of one file; small enough to be sent to another process."""

    file: ActionFile
    frame: JointFrame
    normalizer: Normalizer
    horizon: int
    starts: np.ndarray  # (chunks,) rows of the file

    def read(self) -> np.ndarray:
        """Return (chunks, horizon, dim) float32; past an episode's end its last action repeats."""
        if self.file.chunk_steps:
            chunks = self.file.read_chunks()[self.starts, : self.horizon]
            return self.normalizer.normalize(self.frame.model_from_arm(chunks))
        actions = self.normalizer.normalize(self.frame.model_from_arm(self.file.read()))
        stops = np.array([episode.stop for episode in self.file.episodes])
        last = stops[np.searchsorted(stops, self.starts, side="right")] - 1
        rows = self.starts[:, None] + np.arange(self.horizon)
        return actions[np.minimum(rows, last[:, None])]


@dataclass(frozen=True, slots=True)
class PaddedChunks:
    """The chunks of another job with zeros in the dims that its robot lacks."""

    job: DatasetChunks
    dims: int

    def read(self) -> np.ndarray:
        """Return (chunks, horizon, dims) float32."""
        chunks = self.job.read()
        return np.pad(chunks, ((0, 0), (0, 0), (0, self.dims - chunks.shape[2])))


def quantile_normalizer(dataset: ActionDataset) -> Normalizer:
    """Return what maps the dataset's q01..q99, in the checkpoint's joint frame, to [-1, 1].

    Of more than two million frames, evenly spaced ones are taken. Reads every file once.
    """
    embodiment = dataset.embodiment
    stride = -(-dataset.frames // _RANGE_FRAMES)
    actions = np.concatenate([file.read()[::stride] for file in dataset.files])
    actions = embodiment.action_frame.model_from_arm(actions).astype(np.float32)
    low, high = np.quantile(actions, (0.01, 0.99), axis=0).astype(np.float32)
    return Normalizer(
        low=low,
        high=high,
        mean=None,
        std=None,
        mask=embodiment.mask(embodiment.action_names),
        constant=actions.min(axis=0) == actions.max(axis=0),
    )
