"""States that a run goes on from: whole or absent, whatever stops the run.

A state is written by all processes into a hidden folder (PyTorch's distributed checkpoint, so a run
may go on with another number of processes), brought to the disk, then renamed to `step-000200`.
There is no generator in it: what is random in a step is seeded by the run's seed and the step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from edge.errors import one_line
from training.errors import TrainingError
from training.trainer.ema import Ema

STATE_NAME = re.compile(r"step-(\d{6,})")
# Frozen parameters are the source checkpoint's; strict would ask for them again.
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass(frozen=True, slots=True)
class Trained:
    """What training changes."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None


def save_state(
    folder: Path, steps_done: int, trained: Trained, accelerator: Accelerator, digest: str
) -> Path:
    """Write the state after `steps_done` steps into `folder`; every process calls this.

    Raises TrainingError when it cannot be written; earlier states stay.
    """
    out = folder / f"step-{steps_done:06d}"
    hidden = folder / f".{out.name}"
    if accelerator.is_main_process:
        shutil.rmtree(hidden, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a run without a process group, which is meant
            dcp.save(_tensors(trained), checkpoint_id=hidden)
        if accelerator.is_main_process:
            about = {"steps_done": steps_done, "digest": digest}
            _write_through(hidden / "state.json", json.dumps(about))
            os.rename(hidden, out)
            _sync_folder(folder)
    except (OSError, CheckpointException, RuntimeError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise TrainingError(_unwritten(out, error, newest_state(folder))) from error
    accelerator.wait_for_everyone()
    return out


def load_state(path: Path, trained: Trained, digest: str) -> int:
    """Put a state into the model, the optimizer and the averages. Returns the steps done.

    Raises TrainingError when the state is of another recipe or cannot be read.
    """
    try:
        about = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if about["steps_done"] != int(STATE_NAME.fullmatch(path.name)[1]):
            raise ValueError(f"state.json says {about['steps_done']} steps")
        if about["digest"] != digest:
            raise TrainingError(f"{path}: is of another recipe; remove it or start anew")
        tensors = _tensors(trained)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, checkpoint_id=path)
    except TrainingError:
        raise
    except (Exception, CheckpointException) as error:  # the second is no Exception
        raise TrainingError(
            f"{path}: cannot be read ({_reason(error)}); remove it to go on from the state before"
        ) from error
    set_state_dict(
        trained.model,
        trained.optimizer,
        model_state_dict=tensors["model"],
        optim_state_dict=tensors["optimizer"],
        options=OPTIONS,
    )
    return about["steps_done"]


def newest_state(folder: Path) -> Path | None:
    """Find the whole state with the most steps, None when there is none."""
    states = _states(folder)
    return states[-1] if states else None


def prune_states(folder: Path, keep: int) -> None:
    """Remove all but the last `keep` states, and what a kill left half written."""
    for path in _states(folder)[:-keep]:
        hidden = path.with_name(f".{path.name}.old")
        os.rename(path, hidden)  # a state that is half removed must not look whole
        shutil.rmtree(hidden)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)


def _tensors(trained: Trained) -> dict[str, Any]:
    model, optimizer = get_state_dict(trained.model, trained.optimizer, options=OPTIONS)
    tensors = {"model": model, "optimizer": optimizer}
    if trained.ema is not None:
        tensors["ema"] = trained.ema.averages
    return tensors


def _states(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if STATE_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(STATE_NAME.fullmatch(path.name)[1]))


def _write_through(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]  # of the first process that failed
    return one_line(error)


def _unwritten(out: Path, error: Exception, last: Path | None) -> str:
    causes = r"No space left on device|Permission denied|Read-only file system"
    cause = re.search(causes, " ".join(str(error).split()))
    kept = f"{last} is whole" if last else "no state is whole yet"
    return (
        f"{out}: cannot be written ({cause[0] if cause else _reason(error)}); {kept};"
        " make room or give write permission, then run again with --resume"
    )
