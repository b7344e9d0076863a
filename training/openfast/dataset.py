"""The action column of a LeRobot v3 data set: where its episodes are, and what it holds.

Only parquet files are read: no picture is decoded, nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge.errors import one_line
from training.datasets.embodiment import Embodiment
from training.openfast.errors import OpenFastError

_VERSION = "v3."


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

    def read(self) -> np.ndarray:
        """Return the actions of the file, (rows, dim) float32, in the data set's units.

        Raises OpenFastError naming file, episode and field for rows that are missing, of another
        width, or not finite.
        """
        try:
            table = pq.read_table(self.path, columns=[self.key, "episode_index"])
            column = table.column(self.key).combine_chunks()
            numbers = table.column("episode_index").to_numpy()
        except (OSError, KeyError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise OpenFastError(
                f"{self.path}: cannot read {self.key!r} ({one_line(error)}); copy or record the "
                "data set again"
            ) from None
        expected = np.repeat([e.index for e in self.episodes], [len(e) for e in self.episodes])
        if not np.array_equal(numbers, expected):
            raise OpenFastError(
                f"{self.path}: {len(numbers)} rows are not the {len(expected)} rows of episodes "
                f"{self.episodes[0].index} to {self.episodes[-1].index} that meta/episodes lists; "
                "copy or record the data set again"
            )
        values = self._values(column)
        self._refuse_missing(values)
        return values

    def _values(self, column: pa.Array) -> np.ndarray:
        rows = len(column)
        flat = column
        if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            flat = column.flatten()
        if len(flat) != rows * self.dim or column.null_count:
            raise OpenFastError(
                f"{self.path}: {self.key!r} holds {len(flat)} numbers in {rows} rows; "
                f"{self.dim} a row are needed"
            )
        values = flat.to_numpy(zero_copy_only=False)
        return np.asarray(values, np.float32).reshape(rows, self.dim)

    def _refuse_missing(self, values: np.ndarray) -> None:
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            row, joint = wrong[0]
            episode = next(e for e in self.episodes if e.start <= row < e.stop)
            raise OpenFastError(
                f"{self.path}: episode {episode.index}, frame {row - episode.start}: "
                f"{self.key}[{joint}] is {values[row, joint]}; remove or mend the episode"
            )


@dataclass(frozen=True, slots=True)
class ActionDataset:
    """A data set and the robot that recorded it."""

    folder: Path
    embodiment: Embodiment
    files: tuple[ActionFile, ...]

    @property
    def frames(self) -> int:
        return sum(len(episode) for file in self.files for episode in file.episodes)


def open_dataset(folder: Path, embodiment: Embodiment) -> ActionDataset:
    """Read what `meta/` says; raise OpenFastError for what does not fit the embodiment."""
    if not (folder / "meta" / "info.json").is_file():
        raise OpenFastError(
            f"{folder}: no LeRobot data set (meta/info.json is missing); give the folder of one"
        )
    from lerobot.datasets.io_utils import load_episodes, load_info

    try:
        info = load_info(folder)
        if not str(info.codebase_version).startswith(_VERSION):
            raise OpenFastError(
                f"{folder}: format {info.codebase_version}; convert it to v3.0 with LeRobot's "
                "convert_dataset_v21_to_v30"
            )
        rows = load_episodes(folder).to_list()
        feature = info.features.get(embodiment.action_key)
        _check(folder, embodiment, feature, info.fps)
        files = _files(folder, info.data_path, rows, embodiment)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise OpenFastError(f"{folder}: meta/ is damaged ({one_line(error)})") from None
    if not files:
        raise OpenFastError(f"{folder}: no episode; record some first")
    return ActionDataset(folder, embodiment, files)


def _check(folder: Path, embodiment: Embodiment, feature: dict | None, fps: int) -> None:
    key, dim = embodiment.action_key, len(embodiment.action_names)
    if feature is None:
        raise OpenFastError(f"{folder}: no feature {key!r}, which embodiment {embodiment.name} has")
    if tuple(feature["shape"]) != (dim,):
        raise OpenFastError(
            f"{folder}: {key!r} has shape {tuple(feature['shape'])}; embodiment {embodiment.name} "
            f"has {dim} dims"
        )
    if fps != embodiment.fps:
        raise OpenFastError(
            f"{folder}: {fps} frames/s; embodiment {embodiment.name} has {embodiment.fps}, and a "
            "chunk is a fixed time"
        )


def _files(
    folder: Path, pattern: str, rows: list[dict], embodiment: Embodiment
) -> tuple[ActionFile, ...]:
    by_file: dict[Path, list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["dataset_from_index"]):
        path = folder / pattern.format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        by_file.setdefault(path, []).append(row)
    return tuple(
        ActionFile(path, embodiment.action_key, len(embodiment.action_names), _episodes(own))
        for path, own in by_file.items()
    )


def _episodes(rows: list[dict]) -> tuple[Episode, ...]:
    first = rows[0]["dataset_from_index"]
    return tuple(
        Episode(
            row["episode_index"], row["dataset_from_index"] - first, row["dataset_to_index"] - first
        )
        for row in rows
    )
