"""The action column of a LeRobot v3 dataset: where its episodes are, and what it holds.

Only parquet files are read: no picture is decoded, nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge.errors import one_line
from training.datasets.dataset_files import CHUNK_KEY, open_dataset
from training.datasets.embodiment import Embodiment
from training.openfast.errors import OpenFastError


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode: rows `start` up to `stop` of its file."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class ActionFile:
    """One parquet file; read in whatever process needs it."""

    path: Path
    key: str  # of the action column
    dim: int
    episodes: tuple[Episode, ...]  # all of the file, in its order
    chunk_steps: int = 0  # actions recorded with each row, 0 where it is one

    def read(self) -> np.ndarray:
        """Return the actions of the file, (rows, dim) float32, in the dataset's units.

        Raises OpenFastError naming file, episode and field for rows that are missing, of another
        width, or not finite.
        """
        return self._read(self.key, self.dim)

    def read_chunks(self) -> np.ndarray:
        """Return the chunk of each row, (rows, chunk_steps, dim) float32; raises what `read` does.

        Only of a file that has them.
        """
        values = self._read(CHUNK_KEY, self.chunk_steps * self.dim)
        return values.reshape(-1, self.chunk_steps, self.dim)

    def _read(self, key: str, width: int) -> np.ndarray:
        try:
            table = pq.read_table(self.path, columns=[key, "episode_index"])
            column = table.column(key).combine_chunks()
            numbers = table.column("episode_index").to_numpy()
        except (OSError, KeyError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise OpenFastError(
                f"{self.path}: cannot read {key!r} ({one_line(error)}); copy or record the "
                "dataset again"
            ) from None
        expected = np.repeat([e.index for e in self.episodes], [len(e) for e in self.episodes])
        if not np.array_equal(numbers, expected):
            raise OpenFastError(
                f"{self.path}: {len(numbers)} rows are not the {len(expected)} rows of episodes "
                f"{self.episodes[0].index} to {self.episodes[-1].index} that meta/episodes lists; "
                "copy or record the dataset again"
            )
        values = self._values(column, key, width)
        self._refuse_missing(values, key)
        return values

    def _values(self, column: pa.Array, key: str, width: int) -> np.ndarray:
        rows = len(column)
        flat = column
        if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            flat = column.flatten()
        widths = set() if flat is column else set(pc.list_value_length(column).to_pylist())
        if len(flat) != rows * width or widths - {width}:
            raise OpenFastError(
                f"{self.path}: {key!r} holds {len(flat)} numbers in {rows} rows; "
                f"{width} a row are needed"
            )
        try:
            values = np.asarray(flat.to_numpy(zero_copy_only=False), np.float32)
        except ValueError as error:
            raise OpenFastError(f"{self.path}: {key!r}: {one_line(error)}") from None
        return values.reshape(rows, width)

    def _refuse_missing(self, values: np.ndarray, key: str) -> None:
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            row, joint = wrong[0]
            episode = next(e for e in self.episodes if e.start <= row < e.stop)
            raise OpenFastError(
                f"{self.path}: episode {episode.index}, frame {row - episode.start}: "
                f"{key}[{joint}] is {values[row, joint]}; remove or mend the episode"
            )


@dataclass(frozen=True, slots=True)
class ActionDataset:
    """A dataset and the robot that recorded it."""

    folder: Path
    embodiment: Embodiment
    files: tuple[ActionFile, ...]

    @property
    def frames(self) -> int:
        return sum(len(episode) for file in self.files for episode in file.episodes)


def open_actions(folder: Path, embodiment: Embodiment) -> ActionDataset:
    """Read what `meta/` says; raise DatasetError or OpenFastError for what does not fit."""
    dataset = open_dataset(folder)
    key, dim = embodiment.action_key, len(embodiment.action_names)
    if dataset.width(key) != dim:
        raise OpenFastError(
            f"{folder}: {key!r} has {dataset.width(key)} dims; embodiment {embodiment.name} has "
            f"{dim}"
        )
    steps = dataset.chunk_steps(key)
    if dataset.fps != embodiment.fps and not steps:
        raise OpenFastError(
            f"{folder}: {dataset.fps:g} frames/s; embodiment {embodiment.name} has "
            f"{embodiment.fps}, and a chunk is a fixed time"
        )
    spans: dict[Path, list[Episode]] = {}
    for episode in dataset.episodes:
        own = spans.setdefault(episode.data_file, [])
        start = own[-1].stop if own else 0
        own.append(Episode(episode.index, start, start + episode.frames))
    files = tuple(ActionFile(path, key, dim, tuple(own), steps) for path, own in spans.items())
    return ActionDataset(folder, embodiment, files)
