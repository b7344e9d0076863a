"""A LeRobot v3 dataset on disk: what its `meta/` says, and its rows, read in a stream.

Nothing is downloaded and nothing is imported from LeRobot; the layout is that of LeRobot's
documentation, "LeRobotDataset v3.0". Numbers are small (a state and an action are a hundred bytes)
and are read straight from parquet; pictures are decoded one by one (`training.datasets.pictures`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge.errors import one_line, shown
from training.errors import TrainingError

VERSION = "v3.0"
# Where pictures are rarer than actions: the actions that follow each, one after the other.
CHUNK_KEY = "action.chunk"
_BATCH_ROWS = 1 << 16
_INFO = Path("meta", "info.json")
_EPISODE_COLUMNS = ("episode_index", "length", "data/chunk_index", "data/file_index")
_PATH_KEYS = ("data_path", "video_path")
_VIDEO_PARTS = ("chunk_index", "file_index", "from_timestamp")
_ROW_COLUMNS = ("episode_index", "frame_index", "task_index")


class DatasetError(TrainingError):
    """A dataset is missing something, is damaged, or does not fit what is asked of it."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode, as `meta/episodes` lists it."""

    index: int
    frames: int
    data_file: Path
    videos: Mapping[str, tuple[Path, float]]  # by feature: file, and where in it, seconds


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """What a dataset says of itself."""

    folder: Path
    fps: float
    robot_type: str
    features: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[int, str]
    episodes: tuple[Episode, ...]  # number i is episode i

    @property
    def cameras(self) -> tuple[str, ...]:
        """Feature keys of the cameras that are kept as video."""
        return tuple(key for key, value in self.features.items() if value["dtype"] == "video")

    def width(self, key: str) -> int:
        """Return the length of a vector feature; raise `DatasetError` when it is none."""
        shape = self.features.get(key, {}).get("shape", ())
        if len(shape) != 1:
            known = ", ".join(self.features)
            raise DatasetError(f"{self.folder}: no vector feature {key!r}; features: {known}")
        return int(shape[0])

    def chunk_steps(self, action_key: str) -> int:
        """Return how many actions are recorded with each picture, 0 where it is one.

        Raises `DatasetError` when `CHUNK_KEY` does not hold whole actions.
        """
        if CHUNK_KEY not in self.features:
            return 0
        steps, rest = divmod(self.width(CHUNK_KEY), self.width(action_key))
        if rest or not steps:
            raise DatasetError(
                f"{self.folder}/meta/info.json: {CHUNK_KEY} has {self.width(CHUNK_KEY)} numbers, "
                f"which are no whole actions of {self.width(action_key)}; record it again"
            )
        return steps

    def names(self, key: str) -> tuple[str, ...] | None:
        """Return the names of a vector's dims, or None where the dataset gives none."""
        names = self.features[key].get("names")
        if isinstance(names, dict):  # {"motors": [...]}
            names = [name for group in names.values() for name in group]
        fits = isinstance(names, list) and len(names) == self.width(key)
        return tuple(map(str, names)) if fits else None


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of one data file."""

    file: Path
    episode: np.ndarray  # (n,) int64
    frame: np.ndarray  # (n,) int64
    task: np.ndarray  # (n,) int64
    state: np.ndarray  # (n, state_dim) float32
    action: np.ndarray  # (n, action_dim) float32
    chunk: np.ndarray | None  # (n, steps, action_dim) float32, what `CHUNK_KEY` holds


def open_dataset(folder: Path) -> DatasetFiles:
    """Read `meta/` of the dataset in `folder`; raise `DatasetError`."""
    info = _read_info(folder)
    episodes = _read_episodes(folder, info)
    if not episodes:
        raise DatasetError(f"{folder}: it has no episode; record some, or give another folder")
    return DatasetFiles(
        folder=folder,
        fps=float(info["fps"]),
        robot_type=str(info.get("robot_type") or ""),
        features=info["features"],
        tasks=_read_tasks(folder),
        episodes=episodes,
    )


def read_rows(dataset: DatasetFiles, state_key: str, action_key: str) -> Iterator[Rows]:
    """Read states, actions and tasks of every data file, in order, some rows at a time."""
    vectors = [state_key, action_key]
    vectors += [CHUNK_KEY] if dataset.chunk_steps(action_key) else []
    columns = [*_ROW_COLUMNS, *vectors]
    for file in dict.fromkeys(episode.data_file for episode in dataset.episodes):
        try:
            with pq.ParquetFile(file) as parquet:
                missing = [name for name in columns if name not in parquet.schema_arrow.names]
                if missing:
                    raise DatasetError(f"{file}: column {missing[0]!r} is missing")
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                    numbers = [_numbers(batch[name], file, name) for name in _ROW_COLUMNS]
                    state, action, *chunk = (
                        _matrix(batch[name], dataset.width(name), file, name, numbers[:2])
                        for name in vectors
                    )
                    chunk = chunk[0].reshape(len(action), -1, action.shape[1]) if chunk else None
                    yield Rows(file, *numbers, state, action, chunk)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DatasetError(f"{file}: cannot be read ({one_line(error)})") from None


def _numbers(column: pa.Array, file: Path, name: str) -> np.ndarray:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DatasetError(f"{file}: {name} is not a whole number in every row; copy it again")
    return column.to_numpy(zero_copy_only=False)


def _matrix(
    column: pa.Array, width: int, file: Path, name: str, places: list[np.ndarray]
) -> np.ndarray:
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    if not any(is_kind(column.type) for is_kind in kinds):
        raise DatasetError(f"{file}: {name} is {column.type}; {width} numbers a row are needed")
    wrong = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False) != width
    if wrong.any():
        row = int(np.argmax(wrong))
        found = column[row].as_py()
        raise DatasetError(
            f"{file}: episode {places[0][row]} frame {places[1][row]}: {name} has "
            f"{'no' if found is None else len(found)} numbers, meta/info.json says {width}; mend "
            "or remove the episode"
        )
    # A missing number becomes NaN, which is refused where it is.
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / _INFO
    try:
        info = json.loads(path.read_text("utf-8"))
        version = str(info["codebase_version"])
        fits = isinstance(info["features"], dict) and float(info["fps"]) > 0
        fits = fits and all(_is_feature(value) for value in info["features"].values())
        fits = fits and all(isinstance(info.get(key, ""), str | None) for key in _PATH_KEYS)
    except FileNotFoundError:
        raise DatasetError(
            f"{folder}: no {_INFO}; give the folder of a LeRobot v3 dataset"
        ) from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: damaged ({one_line(error)}); copy it again") from None
    if not re.fullmatch(r"v3\.\d+", version):
        raise DatasetError(
            f"{path}: codebase_version is {shown(version)}, {VERSION} is read; convert the dataset "
            "with 'python -m lerobot.scripts.convert_dataset_v21_to_v30'"
        )
    if not fits:
        raise DatasetError(f"{path}: features or fps are not what LeRobot writes; copy it again")
    return info


def _is_feature(value: Any) -> bool:
    shape = value.get("shape") if isinstance(value, dict) else None
    return isinstance(shape, list) and {*map(type, shape)} <= {int} and "dtype" in value


def _read_tasks(folder: Path) -> dict[int, str]:
    table = _table(folder / "meta" / "tasks.parquet")
    # LeRobot writes the text as the index of a data frame, whose column name has changed.
    text = next((name for name in ("task", "__index_level_0__") if name in table), None)
    if text is None or "task_index" not in table:
        raise DatasetError(f"{folder / 'meta/tasks.parquet'}: no column 'task' or 'task_index'")
    return dict(zip(table["task_index"], table[text], strict=True))


def _read_episodes(folder: Path, info: dict[str, Any]) -> tuple[Episode, ...]:
    cameras = [key for key, value in info["features"].items() if value["dtype"] == "video"]
    places = [f"videos/{key}/{part}" for key in cameras for part in _VIDEO_PARTS]
    episodes: list[Episode] = []
    for path in sorted((folder / "meta" / "episodes").rglob("*.parquet")):
        table = _table(path, [*_EPISODE_COLUMNS, *places])
        for row in range(len(table["episode_index"])):
            values = {name: column[row] for name, column in table.items()}
            try:
                episodes.append(_episode(folder, info, cameras, values))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise DatasetError(
                    f"{folder / _INFO}: its paths and {path} do not name the files of row {row} "
                    f"({one_line(error)}); copy the dataset again"
                ) from None
    episodes.sort(key=lambda episode: episode.index)
    for number, episode in enumerate(episodes):
        if episode.index != number or episode.frames < 1:
            raise DatasetError(
                f"{folder / 'meta/episodes'}: episode {number} is missing, doubled or empty"
            )
    return tuple(episodes)


def _episode(
    folder: Path, info: dict[str, Any], cameras: list[str], row: dict[str, Any]
) -> Episode:
    def file(template: str, prefix: str, **named: Any) -> Path:
        place = {part: row[f"{prefix}/{part}"] for part in ("chunk_index", "file_index")}
        return folder / template.format(**place, **named)

    videos = {
        key: (
            file(info["video_path"], f"videos/{key}", video_key=key),
            float(row[f"videos/{key}/from_timestamp"]),
        )
        for key in cameras
    }
    return Episode(row["episode_index"], row["length"], file(info["data_path"], "data"), videos)


def _table(path: Path, columns: list[str] | None = None) -> dict[str, list[Any]]:
    try:
        return pq.read_table(path, columns=columns).to_pydict()
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing; copy the dataset again") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read ({one_line(error)})") from None
