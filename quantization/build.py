"""Build a bundle from a checkpoint: graphs, embeddings, tokenizer, statistics, manifest.

Everything is written to a hidden folder beside the output, which is renamed into place last: a
build that is interrupted leaves nothing that opens, and starting it again cleans up after it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edge.bundle import EMBEDDINGS, NORM_STATS, TOKENIZER, file_sha256
from edge.errors import BundleError
from edge.manifest import (
    ACTION_TOKENIZER,
    CONTINUOUS,
    DISCRETE,
    MANIFEST_NAME,
    SCHEMA,
    FileEntry,
    LayerEntry,
    Manifest,
    ModelEntry,
    RecipeEntry,
    head_tokens,
)
from edge.manifest_limits import check_model
from quantization.actions import choose_actions, copy_action_tokenizer
from quantization.calibration.calibration_file import Calibration
from quantization.checkpoint import Checkpoint
from quantization.config import CheckpointConfig
from quantization.decoder import write_decoder
from quantization.errors import BuildError
from quantization.expert import write_context, write_expert
from quantization.graph import GraphWriter
from quantization.recipes import Recipe, Rule, find_recipe
from quantization.vision import write_vision
from quantization.work_folder import work_folder

_EMBEDDING = "model.transformer.wte.embedding"
_NEW_EMBEDDING = "model.transformer.wte.new_embedding"
_ROWS_AT_ONCE = 4096


def build_bundle(
    checkpoint_path: Path,
    bundle_path: Path,
    recipe: str | Recipe,
    rules: Sequence[Rule] = (),
    report: Callable[[str], object] = lambda line: None,
    progress: Callable[[int, int], object] = lambda read_bytes, all_bytes: None,
    actions: str | None = None,
    action_tokenizer: Path | None = None,
    calibration: Path | None = None,
) -> Manifest:
    """Build `bundle_path` from a checkpoint folder; return the manifest that was written.

    `recipe` is one, or what `find_recipe` knows it by; `rules` come after its own and overrule
    them. `report` gets one line per finished part, `progress` the bytes of a tensor just read and
    those of the whole checkpoint. `actions` is "continuous", "discrete", "both", or None for all
    that can be had; discrete ones need a tokenizer, `action_tokenizer` or the folder of that name
    in the checkpoint. `calibration` is a file of recorded inputs (`quantization.calibration`), by
    which codes and static scales are chosen. Raises `BuildError`; the output is whole or
    absent.
    """
    if isinstance(recipe, str):
        recipe = find_recipe(recipe)
    recipe = recipe.with_rules(rules)
    if bundle_path.exists():
        raise BuildError(f"{bundle_path}: already exists; delete it or choose another path")
    checkpoint = Checkpoint(
        checkpoint_path, lambda size_bytes: progress(size_bytes, checkpoint.size_bytes())
    )
    recorded = None
    if calibration is not None:
        recorded = Calibration(calibration)
        recorded.check_source(checkpoint.source().sha256)
    dtype = _embedding_dtype(checkpoint, recipe)
    chosen = choose_actions(checkpoint, actions, action_tokenizer)
    model = model_entry(checkpoint.config, dtype, chosen.names)
    try:
        check_model(model, checkpoint.tokens, checkpoint.path)
    except BundleError as error:
        raise BuildError(f"no robot could open the bundle: {error}") from None
    with work_folder(bundle_path, "building") as work:
        layers: dict[str, LayerEntry] = {}
        for write in _writers(recipe, model, checkpoint):
            graph = write(checkpoint, work, recipe, recorded)
            files = graph.save()
            layers.update(graph.layers)
            size_mib = sum(file.stat().st_size for file in files) / 2**20
            report(f"{graph.name}: {len(graph.layers)} matrices, {size_mib:.1f} MiB")
        _write_embeddings(checkpoint, work / EMBEDDINGS, dtype)
        report(f"embeddings: {(work / EMBEDDINGS).stat().st_size / 2**20:.1f} MiB {dtype}")
        shutil.copyfile(checkpoint.tokenizer_path, work / TOKENIZER)
        (work / NORM_STATS).write_text(json.dumps(checkpoint.norm_stats))
        if DISCRETE in chosen.names:
            copy_action_tokenizer(chosen.tokenizer, work / ACTION_TOKENIZER)
        manifest = Manifest(
            schema=SCHEMA,
            created_by=f"molmoact-edge {importlib.metadata.version('molmoact-edge')}",
            source=checkpoint.source(),
            recipe=RecipeEntry(_recipe_name(recipe, recorded), layers, recipe.rules),
            model=model,
            tokens=checkpoint.tokens,
            files={
                path.relative_to(work).as_posix(): FileEntry(path.stat().st_size, file_sha256(path))
                for path in sorted(work.rglob("*"))
                if path.is_file()
            },
        )
        (work / MANIFEST_NAME).write_text(manifest.to_json())
        _flush(work)
        work.rename(bundle_path)
    return manifest


def model_entry(
    config: CheckpointConfig, embedding_dtype: str, actions: tuple[str, ...]
) -> ModelEntry:
    """Return what a bundle's manifest says of the model."""
    text = config.text
    expert = config.expert if CONTINUOUS in actions else None
    return ModelEntry(
        width=text.width,
        layers=text.layers,
        head_dim=text.head_dim,
        kv_width=text.kv_heads * text.head_dim,
        rope_theta=text.rope_theta,
        max_positions=text.max_positions,
        embedding_rows=text.vocab + text.added_vocab,
        embedding_dtype=embedding_dtype,
        actions=actions,
        action_codes=config.action_codes if DISCRETE in actions else 0,
        expert_width=expert.width if expert else 0,
        max_action_horizon=config.max_action_horizon,
        max_action_dim=config.max_action_dim,
        flow_steps=expert.flow_steps if expert else 0,
        n_obs_steps=config.n_obs_steps,
        mask_action_dim_padding=config.mask_action_dim_padding,
        hide_eos_from_expert=config.hide_eos_from_expert,
        depth_cells=config.depth_cells,
        depth_codes=config.depth_codes,
        depth_gate=config.depth_gate if expert else "none",
        image=config.image,
        prompt=config.prompt,
    )


def _writers(
    recipe: Recipe, model: ModelEntry, checkpoint: Checkpoint
) -> list[Callable[[Checkpoint, Path, Recipe, Calibration | None], GraphWriter]]:
    head = head_tokens(model, checkpoint.tokens)
    decoders = [partial(write_decoder, head=head)]
    if recipe.splits_prefill:
        decoders.insert(0, partial(write_decoder, head=head, name="prefill"))
    expert = [write_context, write_expert] if CONTINUOUS in model.actions else []
    return [write_vision, *decoders, *expert]


def _recipe_name(recipe: Recipe, calibration: Calibration | None) -> str:
    if calibration is None or recipe.keeps_everything:
        return recipe.name
    card = calibration.card
    return f"{recipe.name}, calibrated on {card.observations} observations of {card.episodes}"


def _embedding_dtype(checkpoint: Checkpoint, recipe: Recipe) -> str:
    """Choose bfloat16 unless full precision would lose digits."""
    whole = recipe.keeps_everything and checkpoint.dtype(_EMBEDDING) != "bfloat16"
    return "float32" if whole else "bfloat16"


def _write_embeddings(checkpoint: Checkpoint, path: Path, dtype: str) -> None:
    """Write the whole table row by row."""
    text = checkpoint.config.text
    tables = [(_EMBEDDING, text.vocab)]
    if text.added_vocab:
        tables.append((_NEW_EMBEDDING, text.added_vocab))
    with path.open("wb") as file:
        for name, rows in tables:
            for first in range(0, rows, _ROWS_AT_ONCE):
                part = slice(first, min(first + _ROWS_AT_ONCE, rows))
                values = checkpoint.tensor(name, (rows, text.width), part)
                file.write(values.astype(dtype, copy=False).tobytes())


def _flush(folder: Path) -> None:
    """Push every file to the disk before the rename: a power cut must not keep only the name."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
