"""Depth codes of a dataset, kept in a companion folder `<dataset>_depth`.

    annotations = DepthAnnotations.open(Path("data/demos_depth"), dataset=Path("data/demos"))
    codes = annotations.codes(episode=3, frame=41)

One row per frame, with the columns of the MolmoAct2 release: `depth_codes` (fresh codes of the
frame), `buffer_codes` (fresh where the picture changed, carried where not: what the model learns
to say) and `depth_updated_mask`. A picture changed or not against an earlier one, so there is a
set for every interval: at interval n, frame f is compared with frame f - n, as a policy that is
called every n frames compares.

    meta/info.json                                    what this is, and of which dataset
    interval-015/data/chunk-000/file-000.parquet      one row group per episode
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.errors import TrainingError

FORMAT = "molmoact-edge-depth.v1"
Which = Literal["buffer", "fresh"]
_INFO = Path("meta/info.json")
_KEPT_EPISODES = 64  # decoded episodes kept in memory, about 500 bytes a frame
_COLUMNS = {"fresh": "depth_codes", "buffer": "buffer_codes", "changed": "depth_updated_mask"}


class AnnotationError(TrainingError):
    """Depth annotations are missing, damaged, or of another dataset."""


@dataclass(frozen=True, slots=True)
class AnnotationInfo:
    """What a companion folder holds."""

    dataset: str  # name of the folder annotated
    dataset_digest: str  # see `dataset_digest`
    camera: str  # feature of the dataset whose pictures were compared
    teacher: str  # where depth came from
    codebook: str  # sha256 of the codec's weights
    threshold: float  # cosine below which a cell counts as changed
    intervals: tuple[int, ...]  # frames between compared pictures; the first is the default
    cells: int
    codes: int
    episode_frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EpisodeCodes:
    """Depth codes of one episode at one interval."""

    fresh: np.ndarray  # (frames, cells) int16
    buffer: np.ndarray  # (frames, cells) int16
    changed: np.ndarray  # (frames, cells) bool


class DepthAnnotations:
    """An open companion folder; rows are read when they are asked for."""

    def __init__(self, folder: Path, info: AnnotationInfo) -> None:
        self.folder = folder
        self.info = info
        self._files: dict[int, pq.ParquetFile] = {}
        self._episodes: OrderedDict[tuple[int, int], EpisodeCodes] = OrderedDict()

    @classmethod
    def open(cls, folder: Path, dataset: Path | None = None) -> DepthAnnotations:
        """Open `<dataset>_depth`; with `dataset`, check that it belongs to that one.

        Raises `AnnotationError`.
        """
        info = _read_info(Path(folder))
        if dataset is not None and dataset_digest(Path(dataset)) != info.dataset_digest:
            raise AnnotationError(
                f"{folder} was made for another state of the dataset {info.dataset!r}, not for "
                f"{dataset} as it is; annotate it with 'molmoact-train depth annotate'"
            )
        return cls(Path(folder), info)

    @property
    def intervals(self) -> tuple[int, ...]:
        """Intervals, in frames, that have codes; the first is the default."""
        return self.info.intervals

    def codes(
        self, episode: int, frame: int, which: Which = "buffer", interval: int | None = None
    ) -> np.ndarray:
        """Return the codes of a frame, (cells,) int64. Raises `AnnotationError`."""
        if which not in ("buffer", "fresh"):
            raise AnnotationError(f"which is {which!r}; choose 'buffer' or 'fresh'")
        rows = getattr(self._rows(episode, frame, interval), which)
        return rows[frame].astype(np.int64)

    def changed(self, episode: int, frame: int, interval: int | None = None) -> np.ndarray:
        """Tell which cells changed since the frame `interval` before, (cells,) bool.

        All of them where the episode has no such frame. Raises `AnnotationError`.
        """
        return self._rows(episode, frame, interval).changed[frame].copy()

    def episode(self, episode: int, interval: int | None = None) -> EpisodeCodes:
        """Return all codes of an episode. Raises `AnnotationError`."""
        return self._rows(episode, 0, interval)

    def _rows(self, episode: int, frame: int, interval: int | None) -> EpisodeCodes:
        interval = self.intervals[0] if interval is None else interval
        if interval not in self.intervals:
            known = ", ".join(map(str, self.intervals))
            raise AnnotationError(
                f"{self.folder} has no codes at interval {interval}; it has: {known}"
            )
        count = len(self.info.episode_frames)
        if not 0 <= episode < count:
            raise AnnotationError(f"{self.folder} has no episode {episode}; it has 0..{count - 1}")
        frames = self.info.episode_frames[episode]
        if not 0 <= frame < frames:
            raise AnnotationError(
                f"{self.folder}: episode {episode} has no frame {frame}; it has 0..{frames - 1}"
            )
        key = interval, episode
        if key in self._episodes:
            self._episodes.move_to_end(key)
        else:
            self._episodes[key] = self._read(interval, episode)
            if len(self._episodes) > _KEPT_EPISODES:
                self._episodes.popitem(last=False)
        return self._episodes[key]

    def _read(self, interval: int, episode: int) -> EpisodeCodes:
        path = self.folder / _data_file(interval)
        try:
            if interval not in self._files:
                self._files[interval] = pq.ParquetFile(path, memory_map=True)
            table = self._files[interval].read_row_group(episode)
            codes = EpisodeCodes(
                **{name: _matrix(table[column]) for name, column in _COLUMNS.items()}
            )
            places = (table["episode_index"].to_numpy(), table["frame_index"].to_numpy())
        except (OSError, KeyError, IndexError, ValueError, pa.ArrowException) as error:
            raise AnnotationError(
                f"{path}: episode {episode} cannot be read ({' '.join(str(error).split())}); "
                "annotate the dataset again"
            ) from None
        self._check(codes, places, path, episode)
        return codes

    def _check(
        self, codes: EpisodeCodes, places: tuple[np.ndarray, ...], path: Path, episode: int
    ) -> None:
        shape = (self.info.episode_frames[episode], self.info.cells)
        fits = all(getattr(codes, name).shape == shape for name in _COLUMNS)
        fits = fits and np.all(places[0] == episode)
        fits = fits and np.array_equal(places[1], np.arange(shape[0]))
        for rows in (codes.fresh, codes.buffer):
            fits = fits and rows.min() >= 0 and rows.max() < self.info.codes
        if not fits:
            raise AnnotationError(
                f"{path}: rows of episode {episode} are not {shape[0]} frames of {shape[1]} codes "
                f"in 0..{self.info.codes - 1}; annotate the dataset again"
            )


class AnnotationWriter:
    """Writes a companion folder, episode by episode in order; `close` makes it complete."""

    def __init__(self, folder: Path, intervals: tuple[int, ...], cells: int) -> None:
        self._folder = folder
        self._schema = _schema(cells)
        self._frames: list[int] = []
        self._writers = {}
        for interval in intervals:
            path = folder / _data_file(interval)
            path.parent.mkdir(parents=True)
            self._writers[interval] = pq.ParquetWriter(path, self._schema)

    def add_episode(self, codes: dict[int, EpisodeCodes]) -> None:
        """Append the next episode; `codes` has one entry for every interval."""
        episode = len(self._frames)
        for interval, writer in self._writers.items():
            rows = codes[interval]
            frames, cells = rows.fresh.shape
            columns = [_list_array(getattr(rows, name), cells) for name in _COLUMNS]
            columns += [pa.array(np.full(frames, episode)), pa.array(np.arange(frames))]
            table = pa.Table.from_arrays(columns, schema=self._schema)
            writer.write_table(table, row_group_size=frames)
        self._frames.append(len(codes[next(iter(codes))].fresh))

    def close(self, info: AnnotationInfo) -> None:
        """Finish the files and write what they are; `info.episode_frames` is filled in here."""
        for writer in self._writers.values():
            writer.close()
        content = {"format": FORMAT, **asdict(info), "episode_frames": self._frames}
        path = self._folder / _INFO
        path.parent.mkdir()
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def dataset_digest(dataset: Path) -> str:
    """Digest what a LeRobot v3 dataset says of its episodes: lengths, tasks, statistics.

    Raises `AnnotationError` when it says nothing.
    """
    files = sorted((dataset / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise AnnotationError(f"{dataset} has no meta/episodes; a LeRobot v3 dataset is needed")
    digest = sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _data_file(interval: int) -> Path:
    return Path(f"interval-{interval:03d}", "data", "chunk-000", "file-000.parquet")


def _schema(cells: int) -> pa.Schema:
    kinds = (pa.int16(), pa.int16(), pa.bool_())
    columns = [
        (name, pa.list_(kind, cells)) for name, kind in zip(_COLUMNS.values(), kinds, strict=True)
    ]
    return pa.schema([*columns, ("episode_index", pa.int64()), ("frame_index", pa.int64())])


def _list_array(rows: np.ndarray, cells: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), cells)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


def _read_info(folder: Path) -> AnnotationInfo:
    path = folder / _INFO
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AnnotationError(
            f"{folder} has no {_INFO}; make it with 'molmoact-train depth annotate'"
        ) from None
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path} cannot be read ({error}); annotate again") from None
    known = {field.name for field in fields(AnnotationInfo)}
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise AnnotationError(f"{path} is not of format {FORMAT!r}; annotate again")
    if set(content) != known:
        odd = ", ".join(sorted(set(content) ^ known))
        raise AnnotationError(f"{path} has missing or unknown keys: {odd}; annotate again")
    for name in ("intervals", "episode_frames"):
        content[name] = tuple(content[name])
    return AnnotationInfo(**content)
