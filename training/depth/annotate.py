"""Annotate a dataset: fresh codes of every frame, change masks and carried codes.

One process per worker, an episode at a time; what comes out does not depend on how many. The folder
appears when all of it is there.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.images import CHANGE_CELL_PX
from training.datasets.dataset_files import DatasetFiles, open_dataset
from training.depth.annotations import (
    AnnotationInfo,
    AnnotationWriter,
    EpisodeCodes,
    dataset_digest,
)
from training.depth.buffer import carried_codes, episode_similarity
from training.depth.codec import DepthCodec
from training.depth.pictures import check_camera, episode_pictures
from training.depth.teacher import DepthTeacher, TeacherFrame, checked_depth, open_teacher
from training.errors import OutputExistsError, TrainingError


@dataclass(frozen=True, slots=True)
class AnnotateSettings:
    """What is annotated, and how."""

    dataset: Path
    codec: Path
    teacher: str = "sim"
    camera: str | None = None  # None: the first of the dataset
    intervals: tuple[int, ...] = (15, 1)  # frames; the first is the default of who reads
    threshold: float = 0.996


@dataclass(frozen=True, slots=True)
class EpisodeLook:
    """What an episode shows."""

    similarity: dict[int, np.ndarray]  # by interval: (frames, cells) cosines, -1 with none before
    depth: np.ndarray  # (frames, side_px, side_px) uint8 pictures of depth


class EpisodeAnnotator:
    """Annotates episodes of one dataset; what a worker holds."""

    def __init__(self, settings: AnnotateSettings) -> None:
        """Open dataset, codec and teacher; raise `TrainingError`."""
        _check_settings(settings)
        self.settings = settings
        self.dataset: DatasetFiles = open_dataset(settings.dataset)
        self.camera = check_camera(self.dataset, settings.camera)
        self.codec = DepthCodec.open(settings.codec)
        if self.codec.shape.cell_px != CHANGE_CELL_PX:
            raise TrainingError(
                f"{settings.codec}: a code is {self.codec.shape.cell_px} pixels, changes are seen "
                f"in cells of {CHANGE_CELL_PX}"
            )
        self.teacher: DepthTeacher = open_teacher(settings.teacher, self.dataset, self.camera)
        fitted_with = self.codec.about.get("teacher")
        if self.codec.limits is not None and fitted_with != self.teacher.name:
            raise TrainingError(
                f"{settings.codec} has a range in the unit of teacher {fitted_with!r}; it cannot "
                f"read depth of {self.teacher.name!r}: fit one with it, or with --stretch frame"
            )

    def annotate(self, episode: int) -> dict[int, EpisodeCodes]:
        """Return the codes of an episode for every interval; raise `TrainingError`."""
        look = self.look(episode)
        fresh = self.codec.encode(look.depth)
        return {
            interval: carried_codes(fresh, values < self.settings.threshold, interval)
            for interval, values in look.similarity.items()
        }

    def look(self, episode: int) -> EpisodeLook:
        """Go through an episode once; raise `TrainingError`."""
        depths: list[np.ndarray] = []
        pictures = self._watched(episode, depths)
        cells = self.codec.shape.cells
        similarity = episode_similarity(pictures, self.settings.intervals, cells)
        return EpisodeLook(similarity, np.stack(depths))

    def _watched(self, episode: int, depths: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass the pictures of an episode on and keep the depth of each."""
        for frame, picture in enumerate(episode_pictures(self.dataset, episode, self.camera)):
            depth = checked_depth(self.teacher, TeacherFrame(episode, frame, picture))
            depths.append(self.codec.picture(depth))
            yield picture


def annotate_dataset(
    settings: AnnotateSettings,
    out: Path,
    workers: int,
    report: Callable[[int, int], None] = lambda episode, frames: None,
) -> AnnotationInfo:
    """Write `out`, all of it or nothing; `report` is called with episode and frames.

    Raises `TrainingError`.
    """
    if out.exists() or out.is_symlink():
        raise OutputExistsError(out)
    if not out.parent.is_dir():
        raise TrainingError(f"folder {out.parent} does not exist; create it first")
    here = EpisodeAnnotator(settings)
    info = AnnotationInfo(
        dataset=settings.dataset.resolve().name,
        dataset_digest=dataset_digest(settings.dataset),
        camera=here.camera,
        teacher=here.teacher.name,
        codebook=here.codec.digest,
        threshold=settings.threshold,
        intervals=settings.intervals,
        cells=here.codec.shape.cells,
        codes=here.codec.shape.codes,
        episode_frames=(),
    )
    hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        writer = AnnotationWriter(hidden, settings.intervals, info.cells)
        for episode, codes in enumerate(_episodes(here, workers)):
            writer.add_episode(codes)
            report(episode, here.dataset.episodes[episode].frames)
        writer.close(info)
        hidden.chmod(0o755)  # mkdtemp makes it private
        os.rename(hidden, out)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return info


def _episodes(here: EpisodeAnnotator, workers: int) -> Iterator[dict[int, EpisodeCodes]]:
    numbers = range(len(here.dataset.episodes))
    if workers <= 1:
        yield from map(here.annotate, numbers)
        return
    # A forked process would inherit torch's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (here.settings,)) as pool:
        yield from pool.map(_annotate_in_worker, numbers)


_worker: EpisodeAnnotator | None = None


def _start_worker(settings: AnnotateSettings) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    _worker = EpisodeAnnotator(settings)


def _annotate_in_worker(episode: int) -> dict[int, EpisodeCodes]:
    return _worker.annotate(episode)


def _check_settings(settings: AnnotateSettings) -> None:
    intervals = settings.intervals
    if (
        not intervals
        or len(set(intervals)) < len(intervals)
        or not all(1 <= interval <= 999 for interval in intervals)
    ):
        raise TrainingError(
            f"intervals {', '.join(map(str, intervals))}; give different ones of 1 to 999 frames"
        )
    if not 0 < settings.threshold <= 1:
        raise TrainingError(
            f"threshold {settings.threshold}; a cosine above 0 and up to 1 is needed"
        )
