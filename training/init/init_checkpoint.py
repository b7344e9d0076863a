"""Make a checkpoint with random weights in the layout of the released MolmoAct2 repositories."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.errors import OutputExistsError, TrainingError
from training.init.checkpoint_config import generation_config, model_config, processor_config
from training.init.model_card import model_card
from training.init.norm_stats import norm_stats
from training.init.random_weights import random_tensor
from training.init.safetensors_writer import write_checkpoint_weights
from training.init.sizes import ModelSize
from training.init.tensor_layout import TensorSpec, tensor_layout
from training.init.tokenizer import (
    NUM_DEPTH_TOKENS,
    NUM_STATE_TOKENS,
    build_tokenizer,
    token_id,
    tokenizer_config,
)
from training.init.weight_structure import TokenRows

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class WrittenCheckpoint:
    """What was written: file sizes, and parameters per part of the model."""

    path: Path
    file_bytes: dict[str, int]
    parameters: dict[str, int]


def init_checkpoint(
    out: Path, size: ModelSize, *, seed: int, dtype: str, max_shard_mib: float
) -> WrittenCheckpoint:
    """Write a checkpoint to `out`, all of it or nothing.

    `dtype` is a key of safetensors_writer.BYTES_PER_VALUE. Memory needed is that of the largest
    tensor. Raises OutputExistsError when `out` exists, TrainingError when its parent does not.
    """
    if out.exists() or out.is_symlink():
        raise OutputExistsError(out)
    if not out.parent.is_dir():
        raise TrainingError(f"folder {out.parent} does not exist; create it first")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    parameters = _parameters_by_part(size)
    try:
        _write(folder, size, seed=seed, dtype=dtype, max_shard_bytes=int(max_shard_mib * MIB))
        card = model_card(
            size, seed=seed, dtype=dtype, max_shard_mib=max_shard_mib, parameters=parameters
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        folder.chmod(0o755)  # mkdtemp makes it private
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return WrittenCheckpoint(
        path=out,
        file_bytes={path.name: path.stat().st_size for path in sorted(out.iterdir())},
        parameters=parameters,
    )


def _write(folder: Path, size: ModelSize, *, seed: int, dtype: str, max_shard_bytes: int) -> None:
    tokenizer = build_tokenizer(size.text.vocab_rows)
    (folder / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", tokenizer_config())
    _write_json(folder / "config.json", model_config(size, tokenizer, dtype))
    _write_json(folder / "generation_config.json", generation_config(tokenizer))
    _write_json(folder / "processor_config.json", processor_config(size))
    _write_json(folder / "norm_stats.json", norm_stats(size.expert.horizon, size.cameras))
    rows = TokenRows(
        first_state=token_id(tokenizer, "<state_0>"),
        states=NUM_STATE_TOKENS,
        first_depth_code=token_id(tokenizer, "<depth_0>"),
        depth_codes=NUM_DEPTH_TOKENS,
        depth_end=token_id(tokenizer, "<depth_end>"),
    )

    def source(spec: TensorSpec) -> np.ndarray:
        return random_tensor(spec, size, rows, seed)

    write_checkpoint_weights(
        folder, tensor_layout(size), source, dtype=dtype, max_shard_bytes=max_shard_bytes
    )


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _parameters_by_part(size: ModelSize) -> dict[str, int]:
    parts = {
        "embeddings and head": ("model.transformer.wte.", "lm_head."),
        "decoder": ("model.transformer.",),
        "vision": ("model.vision_backbone.",),
        "action expert": ("model.action_expert",),
    }
    counts = dict.fromkeys(parts, 0)
    for spec in tensor_layout(size):
        part = next(p for p, prefixes in parts.items() if spec.name.startswith(prefixes))
        counts[part] += spec.elements
    return counts
