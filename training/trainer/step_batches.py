"""The batches of each step, made ahead of the model by worker processes.

Step s of a run uses examples s * batch_size up to (s + 1) * batch_size; process r of w takes the
r-th of w equal slices, cut into micro-batches. Nothing is kept between steps.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from training.datasets.mixture import Mixture
from training.errors import TrainingError
from training.examples.batch import Batch
from training.examples.collate import Collator
from training.trainer.recipe import Recipe


class StepBatches(Dataset):
    """One process's batches, by step."""

    def __init__(
        self, mixture: Mixture, collator: Collator, recipe: Recipe, process: int, processes: int
    ) -> None:
        """Raises RecipeError when a step cannot be shared out evenly."""
        self._mixture = mixture
        self._collator = collator
        self._recipe = recipe
        self._examples = recipe.examples_each(processes)
        self._offset = process * self._examples

    def __len__(self) -> int:
        """Return the steps of the run."""
        return self._recipe.steps

    def __getitem__(self, step: int) -> list[Batch] | TrainingError:
        """Make a step's micro-batches. An error is returned: workers wrap those they raise."""
        first = step * self._recipe.batch_size + self._offset
        micro = self._recipe.micro_batch_size
        try:
            return [
                self._collator([self._mixture.example(number) for number in range(at, at + micro)])
                for at in range(first, first + self._examples, micro)
            ]
        except TrainingError as error:
            return error


def batches_ahead(batches: StepBatches, first_step: int, workers: int) -> Iterator[list[Batch]]:
    """Give the batches of every step from `first_step` on, in order.

    `workers` processes make them ahead; with 0 they are made here. Raises TrainingError.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first_step, len(batches)),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        # A forked copy of a process with threads may hang; a fork server starts clean.
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_start_worker,
    )
    try:
        for made in loader:
            if isinstance(made, TrainingError):
                raise made
            yield made
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise TrainingError(f"a data worker ended ({reason}); try fewer --workers") from error


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
