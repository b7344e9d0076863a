"""The run folder: what is in it, and how a run that was cut short finds its place.

recipe.json    the recipe as run: a resumed run must agree with it
inputs.json    fingerprints of what it reads, which must not change either
log.jsonl      one JSON line a step
losses.png     curves, drawn at every checkpoint
tensorboard/   the same figures as scalars
state/         step-000200/ and the like: what a run goes on from
checkpoint/    the trained model in the released layout, written when the last step is done
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.trainer.recipe import Recipe, changed_keys
from training.whole_folder import make_parent


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def recipe(self) -> Path:
        """Give the recipe's path."""
        return self.path / "recipe.json"

    @property
    def inputs(self) -> Path:
        """Give the path of the fingerprints of what the run reads."""
        return self.path / "inputs.json"

    @property
    def log(self) -> Path:
        """Give the path of the steps' figures."""
        return self.path / "log.jsonl"

    @property
    def state(self) -> Path:
        """Give the folder of the states that a run goes on from."""
        return self.path / "state"

    @property
    def checkpoint(self) -> Path:
        """Give the folder of the trained model."""
        return self.path / "checkpoint"


def create_run(path: Path, recipe: Recipe) -> RunFolder:
    """Make a run's folder with its recipe in it, all of it or nothing.

    Parents are made. Raises TrainingError when `path` is taken.
    """
    if path.exists() or path.is_symlink():
        hint = "add --resume to go on with it" if (path / "recipe.json").is_file() else "remove it"
        raise TrainingError(f"{path} already exists; {hint}, or choose another --out")
    make_parent(path)
    hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        run = RunFolder(hidden)
        run.state.mkdir()
        written = {"digest": recipe.digest(), "file": recipe.file, "recipe": recipe.values}
        run.recipe.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        run.log.touch()
        hidden.chmod(0o755)  # mkdtemp makes it private
        os.rename(hidden, path)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    return RunFolder(path)


def open_run(path: Path, recipe: Recipe) -> RunFolder:
    """Open the folder of a run to go on with, which must have been started with this recipe.

    Raises TrainingError naming every key that differs.
    """
    run = RunFolder(path)
    if not run.recipe.is_file():
        raise TrainingError(f"{path}: no run to resume (no recipe.json); leave --resume out")
    try:
        before = json.loads(run.recipe.read_text(encoding="utf-8"))["recipe"]
        changed = changed_keys(before, recipe.values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{run.recipe}: not a run's recipe ({error}); start anew") from None
    if changed:
        raise TrainingError(
            f"{path}: was started with another recipe ({'; '.join(changed)});"
            " resume with the same one, or choose another --out"
        )
    for path, is_there in ((run.state, run.state.is_dir()), (run.log, run.log.is_file())):
        if not is_there:
            raise TrainingError(f"{path}: missing; put it back, or start anew with another --out")
    return run


@contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Keep other programs off a run while it trains; raise TrainingError when one has it.

    The lock goes with the process, however that ends, and its children do not have it.
    """
    with run.recipe.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise TrainingError(
                f"{run.path}: another program is training it now; wait for it, or choose another"
                " --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def cut_log(log: Path, steps_done: int) -> None:
    """Keep the log's first `steps_done` steps: what lies behind is run again.

    A line cut short by a kill goes too. Raises TrainingError when a step is missing.
    """
    kept = 0
    offset = 0
    with log.open("rb+") as file:
        for line in file:
            if kept == steps_done or not line.endswith(b"\n"):
                break
            kept += 1
            offset += len(line)
        if kept < steps_done:
            raise TrainingError(
                f"{log}: holds {kept} steps, the state to go on from has {steps_done} done;"
                " put the log back, or start anew"
            )
        file.truncate(offset)
