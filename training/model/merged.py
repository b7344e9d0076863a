"""A plain checkpoint of one that is a base with LoRA adapters, or of one with twice the bytes."""

from __future__ import annotations

from pathlib import Path

import torch

from training.errors import CheckpointError
from training.model.load import ADAPTER_CONFIG, load_model
from training.model.save import save_checkpoint
from training.whole_folder import refuse_taken

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def write_merged(
    folder: Path, out: Path, dtype: str, base: Path | None = None, made_by: str = ""
) -> None:
    """Write `out` with the adapters of `folder` added to their base; computed in float32.

    A checkpoint without adapters is written as bf16. Raises CheckpointError where that leaves
    nothing to do, OutputExistsError.
    """
    refuse_taken(out)
    if dtype == "fp32" and not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: no {ADAPTER_CONFIG}; there is nothing to merge, it is a plain checkpoint; "
            "--dtype bf16 writes it with half the bytes"
        )
    model = load_model(folder, base=base)
    save_checkpoint(model, folder, out, _DTYPES[dtype], made_by=made_by)
