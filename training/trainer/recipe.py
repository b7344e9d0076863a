"""A recipe: the whole truth of a training stage, read from YAML into frozen dataclasses.

Every key must be there (null where a stage has no use for it), known, typed and in range. What is
said on the command line (`--set steps=20`) changes a key that the file has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.config_section import ProfileError, Section
from training.datasets.settings import MixtureSettings, parse_mixture
from training.init.sizes import SIZES
from training.model.settings import (
    GATE_KINDS,
    GROUPS,
    TOKEN_WEIGHTINGS,
    Adaptation,
    DepthSettings,
    FlowSettings,
    LossSettings,
    SettingsError,
)
from training.trainer.recipe_file import RecipeError, read_mapping

ADAMW, MUON = "adamw", "muon"
PRECISIONS = ("fp32", "bf16")
# What changes no figure of a run, so that a resumed run may have another value of it.
FREE_KEYS = ("checkpoint_every",)
MIXTURE_KEYS = ("data", "augmentation")
MAX_STEPS = 10_000_000


@dataclass(frozen=True, slots=True)
class Start:
    """Where the weights come from: a checkpoint, or random ones of a size."""

    checkpoint: Path | None
    init: str | None  # a name in training.init.sizes
    seed: int = 0  # of the random weights


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """One learning rate and one clipped norm for each group of parameters."""

    rates: dict[str, float]  # by group: the highest rate, reached after the warm-up
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    warmup_steps: int
    final_share: float  # of the rates, at the end of the cosine
    clip_norm: float
    matrices: str = ADAMW  # or MUON: what takes the steps of hidden matrices; may be left out


@dataclass(frozen=True, slots=True)
class Recipe:
    """One stage of training."""

    file: str
    start: Start
    seed: int
    steps: int
    batch_size: int  # examples an optimiser step, all processes together
    micro_batch_size: int  # examples a pass
    precision: str  # fp32, or bf16: autocast with fp32 masters
    mixture: MixtureSettings
    residual_dropout: float | None  # of the decoder; None: the checkpoint's; may be left out
    norm_stats: Path | None  # None: the checkpoint's; may be left out
    action_tokenizer: Path | None
    losses: LossSettings
    flow: FlowSettings | None  # None: a stage without the expert
    depth: DepthSettings | None
    trainable: Adaptation
    optimizer: OptimizerSettings
    ema: float | None  # decay a step
    checkpoint_every: int
    compile: bool  # blocks by PyTorch's compiler; may be left out
    values: dict[str, Any]  # as written, overrides applied

    def examples_each(self, processes: int) -> int:
        """Return the examples of a step that each process works on.

        Raises RecipeError when they cannot be shared out evenly.
        """
        if self.batch_size % (processes * self.micro_batch_size):
            raise RecipeError(
                f"{self.file}: batch_size {self.batch_size} is not a multiple of micro_batch_size"
                f" {self.micro_batch_size} x {processes} processes; change one of them"
            )
        return self.batch_size // processes

    def digest(self) -> str:
        """Return a SHA-256 over every key that shapes the run's figures."""
        kept = {key: value for key, value in self.values.items() if key not in FREE_KEYS}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `overrides` are `key=value` with dotted keys that the file has.

    Raises RecipeError, one line with file, key, value and what is allowed.
    """
    values = read_mapping(path, overrides)
    return recipe_from(values, str(path))


def recipe_from(values: Mapping[str, Any], file: str) -> Recipe:
    """Check a recipe's mapping and give it its types. Raises RecipeError."""
    try:
        for key in MIXTURE_KEYS:
            if key not in values:
                raise RecipeError(f"{file}: {key}: this key is missing and has no default")
        mixture = parse_mixture(values["data"], values["augmentation"], file)
        own = {key: value for key, value in values.items() if key not in MIXTURE_KEYS}
        return _recipe(Section(own, file), values, mixture)
    except ProfileError as error:
        raise RecipeError(str(error)) from error
    except SettingsError as error:
        raise RecipeError(f"{file}: {error}") from error


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name the dotted keys that differ, as `key: before -> after`, those left out that are free."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    keys = [key for key in {**old, **new} if key not in FREE_KEYS]
    return [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in keys
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]


def _recipe(section: Section, values: Mapping[str, Any], mixture: MixtureSettings) -> Recipe:
    start = _start(section, values)
    seed = section.integer("seed", 0, 2**31 - 1)
    steps = section.integer("steps", 1, MAX_STEPS)
    batch_size = section.integer("batch_size", 1, 65536)
    micro_batch_size = section.integer("micro_batch_size", 1, 65536)
    if batch_size % micro_batch_size:
        raise section.fail(
            "micro_batch_size", f"{micro_batch_size} does not divide batch_size {batch_size}"
        )
    precision = section.text("precision", PRECISIONS)
    absent = {"norm_stats": None, "residual_dropout": None, "compile": False}
    section.fill_from(Section(absent, section.file))
    recipe = Recipe(
        file=section.file,
        start=start,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        precision=precision,
        mixture=mixture,
        residual_dropout=section.optional_number("residual_dropout", 0, 0.9),
        norm_stats=_path(section.optional_text("norm_stats")),
        action_tokenizer=_path(section.optional_text("action_tokenizer")),
        losses=_losses(section.child("losses")),
        flow=_flow(section.optional_child("flow")),
        depth=_depth(section.optional_child("depth")),
        trainable=_trainable(section, values.get("trainable")),
        optimizer=_optimizer(section.child("optimizer"), steps),
        ema=section.optional_number("ema", 0.5, 0.999999),
        checkpoint_every=section.integer("checkpoint_every", 1, MAX_STEPS),
        compile=section.boolean("compile"),
        values=dict(values),
    )
    section.finish()
    if recipe.flow is None and recipe.losses.flow > 0:
        raise section.fail("flow", f"null, but losses.flow is {recipe.losses.flow:g}; make that 0")
    if recipe.flow is not None and recipe.losses.flow == 0:  # an expert that nothing teaches
        raise section.fail("flow", "given, but losses.flow is 0; make flow null")
    return recipe


def _start(section: Section, values: Mapping[str, Any]) -> Start:
    if not isinstance(values.get("from"), Mapping):
        return Start(checkpoint=Path(section.text("from")), init=None)
    start = section.child("from")
    chosen = Start(None, start.text("init", tuple(SIZES)), start.integer("seed", 0, 2**31 - 1))
    start.finish()
    return chosen


def _losses(section: Section) -> LossSettings:
    losses = LossSettings(
        language=section.number("language", 0, 1000),
        flow=section.number("flow", 0, 1000),
        log_z=section.number("log_z", 0, 1),
        token_weighting=section.text("token_weighting", TOKEN_WEIGHTINGS),
        earlier_layers=section.number("earlier_layers", 0, 100),
    )
    section.finish()
    return losses


def _flow(section: Section | None) -> FlowSettings | None:
    if section is None:
        return None
    flow = FlowSettings(
        samples=section.integer("samples", 1, 64),
        insulation=section.boolean("insulation"),
        beta=section.numbers("beta", 2, 0.01, 100),
        offset=section.number("offset", 0, 1),
        scale=section.number("scale", 0, 1),
    )
    section.finish()
    return flow


def _depth(section: Section | None) -> DepthSettings | None:
    if section is None:
        return None
    depth = DepthSettings(
        code_noise=section.number("code_noise", 0, 1), gate=section.text("gate", GATE_KINDS)
    )
    section.finish()
    return depth


def _trainable(section: Section, value: Any) -> Adaptation:
    if not isinstance(value, Mapping):
        return Adaptation(kind=section.text("trainable", ("full", "expert")))
    outer = section.child("trainable")
    if "full" in value:
        inner = outer.child("full")
        adaptation = Adaptation("full", freeze_embeddings=inner.boolean("freeze_embeddings"))
    else:
        inner = outer.child("lora")
        adaptation = Adaptation(
            kind="lora",
            rank=inner.integer("rank", 1, 1024),
            alpha=inner.integer("alpha", 1, 4096),
            dropout=inner.number("dropout", 0, 0.9),
            expert=inner.boolean("expert"),
        )
    inner.finish()
    outer.finish()
    return adaptation


def _optimizer(section: Section, steps: int) -> OptimizerSettings:
    rates = section.child("rates")
    section.fill_from(Section({"matrices": ADAMW}, section.file))
    settings = OptimizerSettings(
        rates={group: rates.number(group, 0, 1) for group in GROUPS},
        betas=section.numbers("betas", 2, 0, 0.99999),
        eps=section.number("eps", 1e-12, 1e-2),
        weight_decay=section.number("weight_decay", 0, 1),
        warmup_steps=section.integer("warmup_steps", 0, steps),
        final_share=section.number("final_share", 0, 1),
        clip_norm=section.number("clip_norm", 1e-6, 1e6),
        matrices=section.text("matrices", (ADAMW, MUON)),
    )
    rates.finish()
    section.finish()
    return settings


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"
