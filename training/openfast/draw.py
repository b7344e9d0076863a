"""Which chunks a tokenizer is fitted on, and which measure it: a seeded draw from a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.errors import EdgeError
from edge.json_file import read_json
from edge.normalization import Normalizer, parse_tags
from training.datasets.embodiment import load_embodiment
from training.datasets.norm_stats import stats_problem
from training.openfast.chunks import DatasetChunks, quantile_normalizer
from training.openfast.dataset import ActionDataset, ActionFile, Episode, open_actions
from training.openfast.errors import OpenFastError

_MOST_CHUNKS = 4096  # a job
_HELD_OUT = 10  # one episode of so many measures and does not fit
_MAX_STATS_BYTES = 1 << 26
_MAX_HORIZON, _MAX_DIMS = 1000, 64  # as embodiments have them


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset of a mixture."""

    dataset: ActionDataset
    normalizer: Normalizer
    weight: float

    @property
    def name(self) -> str:
        """Give the folder's name, and the robot's where that is another."""
        folder, robot = self.dataset.folder.name, self.dataset.embodiment.name
        return folder if folder == robot else f"{folder} ({robot})"


def open_sources(specs: Sequence[str], norm_stats: Path | None) -> list[Source]:
    """Open `FOLDER:EMBODIMENT[:WEIGHT]` each; raise TrainingError.

    Actions are normalised by the tag's figures in `norm_stats`, or by the dataset's own q01..q99.
    """
    stats = None if norm_stats is None else _stats(norm_stats)
    return [_open_source(spec, stats, norm_stats) for spec in specs]


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Share `total` out by weight, in whole numbers that sum to it."""
    exact = np.array(weights, float) / sum(weights) * total
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    return counts.tolist()


def draw_jobs(
    source: Source, chunks: int, rng: np.random.Generator, *, held_out: bool
) -> list[DatasetChunks]:
    """Draw that many chunks from the episodes kept for a purpose; every frame is as likely.

    `held_out` chooses the episodes that measure a tokenizer instead of those that fit it: every
    tenth, or the last of fewer than ten, or the only one. Frames repeat only when more chunks are
    asked for than there are frames.
    """
    spans = _spans(source.dataset, held_out)
    lengths = np.array([len(episode) for _, episode in spans])
    ends = np.cumsum(lengths)
    frames = int(ends[-1])
    picks = np.sort(
        rng.choice(frames, chunks, replace=False, shuffle=False)
        if chunks <= frames
        else rng.integers(0, frames, chunks)
    )
    span = np.searchsorted(ends, picks, side="right")
    first_rows = np.array([episode.start for _, episode in spans])
    starts = first_rows[span] + picks - (ends - lengths)[span]
    files = np.array([file for file, _ in spans])[span]
    return [
        _job(source, source.dataset.files[file], starts[part])
        for file in np.unique(files)
        for part in _parts(np.flatnonzero(files == file))
    ]


def _open_source(spec: str, stats: object, norm_stats: Path | None) -> Source:
    parts = spec.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise OpenFastError(f"--data {spec!r} is not FOLDER:EMBODIMENT or FOLDER:EMBODIMENT:WEIGHT")
    dataset = open_actions(Path(parts[0]), load_embodiment(parts[1]))
    weight = _weight(spec, parts[2]) if len(parts) == 3 else 1.0
    if norm_stats is None:
        return Source(dataset, quantile_normalizer(dataset), weight)
    return Source(dataset, _tag_normalizer(stats, dataset, norm_stats), weight)


def _weight(spec: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise OpenFastError(f"--data {spec!r}: weight {text} is no number above 0")
    return weight


def _stats(path: Path) -> object:
    try:
        return parse_tags(read_json(path, _MAX_STATS_BYTES), _MAX_HORIZON, _MAX_DIMS)
    except EdgeError as error:
        raise OpenFastError(stats_problem(path, error)) from None


def _tag_normalizer(tags: dict, dataset: ActionDataset, path: Path) -> Normalizer:
    embodiment = dataset.embodiment
    tag = tags.get(embodiment.norm_tag)
    if tag is None:
        raise OpenFastError(f"{path}: no tag {embodiment.norm_tag!r}; it has {', '.join(tags)}")
    if tag.action.dim != len(embodiment.action_names):
        raise OpenFastError(
            f"{path}: tag {embodiment.norm_tag!r} has {tag.action.dim} action dims; embodiment "
            f"{embodiment.name} has {len(embodiment.action_names)}"
        )
    return tag.action


def _spans(dataset: ActionDataset, held_out: bool) -> list[tuple[int, Episode]]:
    spans = [
        (number, episode) for number, file in enumerate(dataset.files) for episode in file.episodes
    ]
    if len(spans) == 1:
        return spans
    last = len(spans) - 1
    kept = [
        position % _HELD_OUT == _HELD_OUT - 1 if len(spans) >= _HELD_OUT else position == last
        for position in range(len(spans))
    ]
    return [span for span, is_held in zip(spans, kept, strict=True) if is_held is held_out]


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + _MOST_CHUNKS] for first in range(0, len(rows), _MOST_CHUNKS)]


def _job(source: Source, file: ActionFile, starts: np.ndarray) -> DatasetChunks:
    embodiment = source.dataset.embodiment
    return DatasetChunks(
        file, embodiment.action_frame, source.normalizer, embodiment.horizon, starts
    )
