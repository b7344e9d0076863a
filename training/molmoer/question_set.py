"""Question sets on disk: JSON lines beside their pictures, a train and a test half.

    OUT/set.json                   how it was made
    OUT/train/questions.jsonl      {"images": ["pictures/000012.jpg"], "question": "Point to ...",
    OUT/train/pictures/             "answer": "...", "kind": "pointing", "radius": 41}
    OUT/test/...

One's own data is a folder like `train`; `radius` is only there where a point is asked for. Scenes
are made in processes of their own; scene `i` of a half is a function of the seed and `i` alone.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sim.gl import GL_BACKEND, GlError, ensure_gl
from training.errors import TrainingError
from training.molmoer.drawings import draw_scene
from training.molmoer.question import Question, Scene, Split
from training.molmoer.texts import text_scene
from training.whole_folder import whole_folder

if TYPE_CHECKING:
    from training.molmoer.desk import Desk

LINES = "questions.jsonl"
SUBJECTS = ("embodied", "general", "text")
MAPS, LISTS, MENTIONS = "maps", "lists", "mentions"  # subjects that have nothing but that
JPEG_QUALITY = 95

_OF_THE_DESK = ("embodied", MAPS, LISTS, MENTIONS)
_SCENES_AT_ONCE = 64
_EPISODE_EVERY = 5  # one embodied scene in so many is an episode


@dataclass(frozen=True, slots=True)
class SetSettings:
    """What a set is to hold."""

    subject: str  # one of SUBJECTS, or MAPS, LISTS or MENTIONS
    train: int  # questions
    test: int
    seed: int
    height_px: int  # of the pictures
    varied: bool = False  # embodied scenes look different from each other
    at_once: float = 0.3  # share of mentions that are answered at the name, not behind it


@dataclass(frozen=True, slots=True)
class _Task:
    """One scene to make."""

    settings: SetSettings
    split: Split
    number: int


def write_question_set(out: Path, settings: SetSettings, workers: int) -> dict[str, Counter[str]]:
    """Write both halves; count the questions of each by kind.

    `out` appears whole or not at all. Raises OutputExistsError, and TrainingError when pictures
    cannot be rendered here.
    """
    if settings.subject in _OF_THE_DESK:
        try:
            ensure_gl()
        except GlError as error:
            raise TrainingError(str(error)) from None
    counts = {}
    halves = ((Split.TRAIN, settings.train), (Split.TEST, settings.test))
    with whole_folder(out) as folder:
        try:
            with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:
                for split, wanted in halves:
                    half = folder / split.value
                    counts[split.value] = _write_half(half, wanted, settings, split, pool)
        except BrokenProcessPool:
            raise TrainingError(
                f"{out}: a process that makes scenes died; try again with --workers 1"
            ) from None
        made = {
            "subject": settings.subject,
            "seed": settings.seed,
            "height_px": settings.height_px,
            "varied": settings.varied,
            "at_once": settings.at_once,
            "questions": {half: dict(kinds) for half, kinds in counts.items()},
        }
        (folder / "set.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return counts


def make_scene(task: _Task, desk: Desk | None = None) -> Scene:
    """Make one scene; those of the desk need a `desk`."""
    seeds = (task.settings.seed, list(Split).index(task.split), task.number)
    rng = np.random.default_rng(seeds)
    if task.settings.subject == "text":
        return text_scene(task.split, rng)
    if task.settings.subject == "general":
        return draw_scene(task.split, rng, task.settings.height_px)
    from training.molmoer.desk_questions import desk_scene, list_scene, map_scene, mention_scene
    from training.molmoer.episode_questions import episode_scene

    assert desk is not None
    if task.settings.subject == MAPS:
        return map_scene(desk, task.split, rng)
    if task.settings.subject == LISTS:
        return list_scene(desk, task.split, rng)
    if task.settings.subject == MENTIONS:
        return mention_scene(desk, task.split, rng, task.settings.at_once)
    is_episode = task.number % _EPISODE_EVERY == _EPISODE_EVERY - 1
    return (episode_scene if is_episode else desk_scene)(desk, task.split, rng)


def _write_half(
    folder: Path, wanted: int, settings: SetSettings, split: Split, pool: Executor
) -> Counter[str]:
    (folder / "pictures").mkdir(parents=True)
    counts: Counter[str] = Counter()
    pictures = 0
    with (folder / LINES).open("w", encoding="utf-8") as lines:
        for encoded, questions in _scenes(settings, split, pool):
            names = [f"pictures/{pictures + i:06d}.jpg" for i in range(len(encoded))]
            asked = questions[: wanted - counts.total()]
            shown = {number for question in asked for number in question.pictures}
            for number in sorted(shown):
                (folder / names[number]).write_bytes(encoded[number])
            for question in asked:
                lines.write(json.dumps(_line(question, names)) + "\n")
                counts[question.kind] += 1
            pictures += len(encoded)
            if counts.total() >= wanted:
                return counts
    raise AssertionError("scenes do not end")


def _scenes(
    settings: SetSettings, split: Split, pool: Executor
) -> Iterator[tuple[list[bytes], tuple[Question, ...]]]:
    start = 0
    while True:
        numbers = range(start, start + _SCENES_AT_ONCE)
        tasks = [_Task(settings, split, number) for number in numbers]
        yield from pool.map(_worked, tasks, chunksize=4)
        start += _SCENES_AT_ONCE


def _line(question: Question, names: list[str]) -> dict[str, Any]:
    line: dict[str, Any] = {
        "images": [names[number] for number in question.pictures],
        "question": question.text,
        "answer": question.answer,
        "kind": question.kind,
    }
    if question.radius is not None:
        line["radius"] = question.radius
    if question.goes_on:
        line["goes_on"] = True
    return line


_desk: Desk | None = None  # of this worker process


def _start_worker() -> None:
    os.environ["MUJOCO_GL"] = GL_BACKEND  # read once, when MuJoCo is imported
    cv2.setNumThreads(1)


def _worked(task: _Task) -> tuple[list[bytes], tuple[Question, ...]]:
    global _desk
    if task.settings.subject in _OF_THE_DESK and _desk is None:
        from training.molmoer.desk import Desk

        _desk = Desk(task.settings.height_px, varied=task.settings.varied)
    scene = make_scene(task, _desk)
    return [_jpeg(picture) for picture in scene.pictures], scene.questions


def _jpeg(picture: np.ndarray) -> bytes:
    done, encoded = cv2.imencode(
        ".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert done
    return encoded.tobytes()
