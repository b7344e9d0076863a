"""A plain checkpoint of one that is a base with LoRA adapters."""

from __future__ import annotations

from pathlib import Path

import torch

from training.model.load import ADAPTER_CONFIG, CheckpointError, load_model
from training.model.save import save_checkpoint
from training.whole_folder import refuse_taken

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def write_merged(
    folder: Path, out: Path, dtype: str, base: Path | None = None, made_by: str = ""
) -> None:
    """Write `out` with the adapters of `folder` added to their base; computed in float32.

    Raises CheckpointError when `folder` holds no adapters, OutputExistsError.
    """
    refuse_taken(out)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: no {ADAPTER_CONFIG}; there is nothing to merge, it is a plain checkpoint"
        )
    model = load_model(folder, base=base)
    save_checkpoint(model, folder, out, _DTYPES[dtype], made_by=made_by)
