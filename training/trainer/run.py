"""A run from a recipe to a checkpoint: begin or go on, keep states, end with the trained model."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs
from torch.distributed.fsdp import MixedPrecisionPolicy

from training.errors import TrainingError
from training.model.compiled import compile_blocks
from training.model.groups import hidden_matrices, parameter_groups
from training.trainer.curves import draw_curves
from training.trainer.ema import Ema
from training.trainer.finish import write_checkpoint
from training.trainer.inputs import check_inputs, fingerprints
from training.trainer.loop import train
from training.trainer.optimizer import build_optimizer, named_groups
from training.trainer.recipe import ADAMW, MUON, Recipe
from training.trainer.run_folder import RunFolder, create_run, held, open_run
from training.trainer.run_log import RunLog, StepFigures, read_log
from training.trainer.stage import Stage, open_stage, source_checkpoint
from training.trainer.state import Trained, load_state, newest_state, prune_states, save_state
from training.trainer.step_batches import StepBatches, batches_ahead

START = "start"  # the folder of random weights, inside the run's


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What changes none of a run's figures."""

    resume: bool = False
    keep: int = 2  # states
    workers: int = 1  # processes that make batches ahead, beside each training process
    recompute: bool = False  # activations in the backward pass, for less memory


def run_recipe(recipe: Recipe, out: Path, options: RunOptions) -> bool:
    """Train to the last step and write `out`/checkpoint; True in the process that wrote it.

    A run that was stopped, however, goes on with `options.resume` from its newest whole state.
    Raises TrainingError.
    """
    accelerator = _accelerator(recipe)
    run = RunFolder(out)
    fresh = not options.resume
    if accelerator.is_main_process:
        (create_run if fresh else open_run)(out, recipe)
    accelerator.wait_for_everyone()
    with held(run) if accelerator.is_main_process else nullcontext():
        return _run(recipe, run, options, accelerator)


def _run(recipe: Recipe, run: RunFolder, options: RunOptions, accelerator: Accelerator) -> bool:
    fresh = not options.resume
    if run.checkpoint.is_dir():
        raise TrainingError(f"{run.checkpoint} is already there: the run is complete")
    with _removed_on_failure(run, fresh and accelerator.is_main_process):
        with accelerator.main_process_first():
            source = source_checkpoint(recipe, run.path / START)
        stage = open_stage(
            recipe, source, every_part=accelerator.num_processes > 1, recompute=options.recompute
        )
        batches = StepBatches(
            stage.mixture,
            stage.collator,
            recipe,
            accelerator.process_index,
            accelerator.num_processes,
        )
        if accelerator.is_main_process:
            check_inputs(run.inputs, fingerprints(recipe, source), recipe)
        trained = _prepared(recipe, stage, accelerator)
    _train(recipe, run, trained, batches, accelerator, options)
    write_checkpoint(run, recipe, stage, trained, accelerator)
    return accelerator.is_main_process


def _accelerator(recipe: Recipe) -> Accelerator:
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # else several processes would not find another
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        kwargs_handlers=[
            # Its cache would keep a bf16 copy of every block that was gathered.
            AutocastKwargs(cache_enabled=False),
            DistributedDataParallelKwargs(
                # Without a language loss the decoder's last layer gets no gradient.
                find_unused_parameters=recipe.losses.language == 0,
                broadcast_buffers=False,
            ),
        ],
    )


def _prepared(recipe: Recipe, stage: Stage, accelerator: Accelerator) -> Trained:
    if accelerator.is_fsdp2:
        # Blocks are gathered in fp32 and multiplied in bf16 by autocast, as in one process.
        # Accelerate's own choice holds everything in bf16, norms and the residual stream too.
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        if recipe.optimizer.matrices == MUON:
            raise TrainingError(
                f"{recipe.file}: optimizer.matrices: {MUON} needs whole matrices, and these are"
                f" sharded; set {ADAMW}"
            )
        if recipe.compile:
            raise TrainingError(f"{recipe.file}: compile: not for sharded models; set false")
    model = stage.objective.model
    if recipe.compile:
        compile_blocks(model)
    optimizer = build_optimizer(parameter_groups(model), recipe.optimizer, hidden_matrices(model))
    model, optimizer = accelerator.prepare(stage.objective, optimizer)
    ema = None
    if recipe.ema is not None:
        parameters = {
            f"{name}.{index}": parameter
            for name, group in named_groups(optimizer).items()
            for index, parameter in enumerate(group)
        }
        ema = Ema(parameters, recipe.ema)
    return Trained(model, optimizer, ema)


def _train(
    recipe: Recipe,
    run: RunFolder,
    trained: Trained,
    batches: StepBatches,
    accelerator: Accelerator,
    options: RunOptions,
) -> None:
    state = newest_state(run.state)
    steps_done = 0 if state is None else load_state(state, trained, recipe.digest())
    main = accelerator.is_main_process
    log = RunLog(run, recipe.steps, steps_done, sys.stdout) if main else None

    def after_step(figures: StepFigures) -> None:
        if log is not None:
            log.write(figures)
        if figures.step % recipe.checkpoint_every and figures.step < recipe.steps:
            return
        if log is not None:
            log.sync()
        save_state(run.state, figures.step, trained, accelerator, recipe.digest())
        gc.collect()  # what saving left behind; the loop keeps the collector at rest
        if main:
            prune_states(run.state, options.keep)
            draw_curves(read_log(run.log), run.path / "losses.png", run.path.name)

    ahead = batches_ahead(batches, steps_done, options.workers)
    try:
        train(recipe, trained, ahead, accelerator, steps_done=steps_done, after_step=after_step)
    except KeyboardInterrupt:
        last = newest_state(run.state)
        kept = f"{last} is whole" if last else "no state was written yet"
        raise TrainingError(
            f"{run.path}: stopped from the keyboard; {kept}, go on with --resume"
        ) from None
    finally:
        if log is not None:
            log.close()


@contextmanager
def _removed_on_failure(run: RunFolder, remove: bool) -> Iterator[None]:
    """Leave no folder behind when a run could not even begin."""
    try:
        yield
    except BaseException:
        if remove:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
