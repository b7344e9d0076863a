"""Everything a recipe names, opened and checked: the model with its losses, and the examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)

from training.datasets.mixture import Mixture, MixtureContext
from training.errors import TrainingError
from training.examples.collate import Collator
from training.init.init_checkpoint import init_checkpoint
from training.init.sizes import size_by_name
from training.model.adapt import adapt
from training.model.compiled import LENGTHS
from training.model.graft import graft
from training.model.groups import parameter_groups
from training.model.load import load_model, read_config
from training.model.objective import Objective
from training.model.settings import Adaptation, DepthSettings, FlowSettings, GateKind
from training.openfast.open_tokenizer import open_tokenizer
from training.trainer.recipe import Recipe

NORM_STATS = "norm_stats.json"
WITHOUT_DEPTH = DepthSettings(code_noise=0.0, gate="none")


@dataclass(frozen=True, slots=True)
class Stage:
    """What the loop works with."""

    source: Path  # the checkpoint that the stage starts from
    objective: Objective
    mixture: Mixture
    collator: Collator


def existing_source(recipe: Recipe) -> Path:
    """Return the folder that the recipe starts from. Raises TrainingError when it is not there."""
    folder = recipe.start.checkpoint
    if folder is None or not (folder / "config.json").is_file():
        raise TrainingError(
            f"{recipe.file}: from: no checkpoint {folder};"
            " run the stage that makes it first, or give another with --set from=FOLDER"
        )
    return folder


def source_checkpoint(recipe: Recipe, start: Path) -> Path:
    """Return the folder of the checkpoint to start from; random weights are written to `start`.

    Raises TrainingError when the recipe names a folder that is not there.
    """
    if recipe.start.init is None:
        return existing_source(recipe)
    if not start.is_dir():
        size = size_by_name(recipe.start.init).without_expert()
        init_checkpoint(start, size, seed=recipe.start.seed, dtype="fp32", max_shard_mib=4768)
    return start


def open_stage(
    recipe: Recipe, source: Path, *, every_part: bool = False, recompute: bool = False
) -> Stage:
    """Open the data first, which fails early and fast, then the model. Raises TrainingError.

    `every_part` and `recompute` are Objective's.
    """
    mixture = Mixture(recipe.mixture, _context(recipe, source))
    collator = Collator(source, LENGTHS if recipe.compile else 1)
    model = load_model(source, residual_dropout=recipe.residual_dropout)
    torch.manual_seed(recipe.seed)  # of grafted parts and adapters
    depth = recipe.depth or WITHOUT_DEPTH
    make_trainable(
        model,
        with_expert=recipe.flow is not None,
        gate=depth.gate,
        adaptation=recipe.trainable,
        expert_shape=planned_expert(source),
    )
    objective = Objective(
        model,
        recipe.losses,
        recipe.flow or FlowSettings(),
        depth,
        recipe.seed,
        every_part=every_part,
        recompute=recompute,
    )
    return Stage(source, objective, mixture, collator)


def make_trainable(
    model: MolmoAct2ForConditionalGeneration,
    *,
    with_expert: bool,
    gate: GateKind,
    adaptation: Adaptation,
    expert_shape: Mapping[str, object] | None,
) -> None:
    """Add the parts that a recipe asks for and let learn what it lets learn, in place.

    `expert_shape` is that of an expert that is yet to be grafted, None for the released one.
    """
    graft(model, expert=with_expert, depth_gate=gate, expert_shape=expert_shape)
    adapt(model, adaptation)
    if not with_expert:  # one that is there stays as it is
        for parameter in parameter_groups(model)["expert"]:
            parameter.requires_grad_(False)


def planned_expert(source: Path) -> Mapping[str, object] | None:
    """Return the shape that config.json states for the expert, there or not yet."""
    return read_config(source).get("action_expert_config")


def norm_stats_file(recipe: Recipe, source: Path) -> Path:
    """Return the norm stats that the stage uses: the recipe's, else the checkpoint's.

    Raises TrainingError when the file is not there.
    """
    path = recipe.norm_stats or source / NORM_STATS
    if not path.is_file():
        raise TrainingError(
            f"{recipe.file}: norm_stats: no file {path}; make it with 'molmoact-train stats', or"
            " set null for the checkpoint's own"
        )
    return path


def _context(recipe: Recipe, source: Path) -> MixtureContext:
    tokenizer = recipe.action_tokenizer
    return MixtureContext(
        seed=recipe.seed,
        checkpoint=source,
        norm_stats=norm_stats_file(recipe, source),
        action_tokenizer=None if tokenizer is None else open_tokenizer(tokenizer, source),
    )
