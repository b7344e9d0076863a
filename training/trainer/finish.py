"""The end of a run: the trained model as a checkpoint in the released layout."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from training.errors import TrainingError
from training.model.save import save_checkpoint
from training.trainer.recipe import Recipe
from training.trainer.run_folder import RunFolder
from training.trainer.stage import Stage
from training.trainer.state import Trained

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
INSIDE = "model."  # of the objective's parameter names, where the model is


def write_checkpoint(
    run: RunFolder, recipe: Recipe, stage: Stage, trained: Trained, accelerator: Accelerator
) -> None:
    """Write the run's checkpoint folder; every process calls this.

    The weights are fp32, averaged ones where the recipe asks for an average. Raises TrainingError;
    the run's last state then still holds them.
    """
    with nullcontext() if trained.ema is None else trained.ema.in_place():
        tensors = get_model_state_dict(trained.model, options=WHOLE)
        if accelerator.is_main_process:
            _save(run, recipe, stage, tensors)
    accelerator.wait_for_everyone()


def _save(
    run: RunFolder, recipe: Recipe, stage: Stage, tensors: Mapping[str, torch.Tensor]
) -> None:
    try:
        save_checkpoint(
            stage.objective.model,
            stage.source,
            run.checkpoint,
            state={name.removeprefix(INSIDE): tensor for name, tensor in tensors.items()},
            norm_stats=recipe.norm_stats,
            action_tokenizer=recipe.action_tokenizer,
            made_by=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )
    except OSError as error:
        raise TrainingError(
            f"{run.checkpoint}: cannot be written ({error}); make room or give write permission,"
            " then run again with --resume: no step is lost"
        ) from error
