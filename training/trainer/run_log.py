"""The figures of every step: one line on the screen, one JSON line in log.jsonl, TensorBoard.

The JSON line has everything; the screen's line has the same in short. A figure ending in `_s` or
`_per_s` is time measured and differs from run to run, every other one is the recipe's alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.errors import TrainingError
from training.trainer.run_folder import RunFolder, cut_log

MEASURED = ("wait_s", "step_s", "examples_per_s", "tokens_per_s", "memory_gib")


@dataclass(slots=True)
class StepFigures:
    """What one optimiser step did, over all processes."""

    step: int  # from 1: steps done
    loss: float
    language: float
    flow: float
    log_z: float
    tokens: int  # not padding
    sources: dict[str, int]  # examples by source
    rates: dict[str, float]  # by group
    grad_norms: dict[str, float]  # by group, before clipping
    wait_s: float = 0.0  # until the step's examples were there
    step_s: float = 0.0  # all of the step, waiting included
    examples_per_s: float = 0.0
    tokens_per_s: float = 0.0
    memory_gib: float = 0.0  # the highest so far: of the GPU's memory, of the process without one

    def line(self, steps: int) -> str:
        """Return the figures in one line."""
        width = len(str(steps))
        return " | ".join(
            (
                f"step {self.step:>{width}}/{steps}",
                f"loss {self.loss:.4f} language {self.language:.4f} flow {self.flow:.4f}"
                f" log_z {self.log_z:.2g}",
                "from " + _pairs(self.sources, "d"),
                "lr " + _pairs(self.rates, ".1e"),
                "norm " + _pairs(self.grad_norms, ".2g"),
                f"{self.examples_per_s:.1f} ex/s {self.tokens_per_s:.0f} tok/s"
                f" wait {self.wait_s:.2f} s mem {self.memory_gib:.2f} GiB",
            )
        )


class RunLog:
    """Writes the figures of a run; only one process has one."""

    def __init__(self, run: RunFolder, steps: int, steps_done: int, screen: TextIO) -> None:
        cut_log(run.log, steps_done)
        self._file = run.log.open("a", encoding="utf-8")
        self._path = run.log
        self._steps = steps
        self._screen = screen
        self._board = SummaryWriter(str(run.path / "tensorboard"), purge_step=steps_done + 1)
        self._bar = tqdm(
            total=steps,
            initial=steps_done,
            unit="step",
            file=screen,
            disable=not screen.isatty(),
            dynamic_ncols=True,
        )

    def write(self, figures: StepFigures) -> None:
        """Add a step. Raises TrainingError when the file cannot be written."""
        try:
            self._file.write(json.dumps(asdict(figures)) + "\n")
            self._file.flush()  # the operating system has it now, whatever becomes of the process
        except OSError as error:
            raise TrainingError(f"{self._path}: cannot be written ({error}); make room") from None
        self._scalars(figures)
        if self._bar.disable:
            print(figures.line(self._steps), file=self._screen, flush=True)
        else:
            self._bar.write(figures.line(self._steps), file=self._screen)
        self._bar.update()

    def sync(self) -> None:
        """Bring the lines so far to the disk: a state that is whole must find its steps."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """End the log."""
        self._file.close()
        self._board.close()
        self._bar.close()

    def _scalars(self, figures: StepFigures) -> None:
        for key, value in asdict(figures).items():
            if key == "step":
                continue
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, scalar in parts:
                tag = f"{key}/{part}" if part else key
                self._board.add_scalar(tag, scalar, figures.step)


def read_log(path: Path) -> list[dict]:
    """Read the whole lines of a log.jsonl."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def _pairs(values: dict[str, float], spec: str) -> str:
    return " ".join(f"{name} {value:{spec}}" for name, value in values.items())
