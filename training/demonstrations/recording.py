"""Record a whole dataset: processes that simulate, one that writes, and all of it or nothing.

Everything is written to a hidden folder beside the output, which takes its name at the end. What a
recording that was killed has left there is removed by the next one to the same output.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sim.gl import GlError, ensure_gl
from training.demonstrations.crew import Crew
from training.demonstrations.dataset import DemonstrationDataset
from training.demonstrations.worker import Recorded, Settings
from training.errors import OutputExistsError, TrainingError


@dataclass(slots=True)
class Report:
    """What a recording came to."""

    episodes: list[Recorded] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)  # by part of the dataset

    @property
    def thrown_away(self) -> int:
        """Episodes in which the expert failed."""
        return sum(episode.thrown_away for episode in self.episodes)


def record_demonstrations(
    out: Path,
    episodes: int,
    settings: Settings,
    *,
    workers: int,
    on_episode: Callable[[Recorded], None],
) -> Report:
    """Record `episodes` successful demonstrations to `out`, which must not exist.

    The files do not depend on `workers`. `on_episode` is called for each in order, when it has been
    written. Raises TrainingError.
    """
    _check_output(out)
    report = Report()
    with _hidden_folder(out) as hidden:
        try:
            ensure_gl()
        except GlError as error:
            raise TrainingError(str(error)) from error
        # A name of its own: a process that outlives a killed recording finds its folder gone.
        staging = Path(tempfile.mkdtemp(prefix="staging.", dir=hidden))
        dataset = DemonstrationDataset(hidden / "dataset", out.name, settings)
        try:
            with Crew(workers, settings, staging) as crew:
                for episode in crew.record(episodes):
                    dataset.add(episode)
                    report.episodes.append(episode)
                    on_episode(episode)
        except BaseException:
            dataset.abandon()
            raise
        dataset.finish()
        report.bytes = _sizes(hidden / "dataset")
        if out.exists():
            raise OutputExistsError(out)
        os.rename(hidden / "dataset", out)
    return report


@contextmanager
def _hidden_folder(out: Path) -> Iterator[Path]:
    """Own the hidden folder beside `out` while the body runs, and remove it then."""
    hidden = out.parent / f".{out.name}.recording"
    lock_path = out.parent / f".{out.name}.recording.lock"
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{out} is being recorded by another process; wait for it or choose another output"
            ) from error
        try:
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir()
            yield hidden
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            lock_path.unlink(missing_ok=True)


def _check_output(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise OutputExistsError(out)
    if not out.parent.is_dir():
        raise TrainingError(f"folder {out.parent} does not exist; create it first")


def _sizes(root: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            part = path.relative_to(root).parts[0]
            sizes[part] = sizes.get(part, 0) + path.stat().st_size
    return sizes
