"""Opens a checkpoint in the released layout as LeRobot's MolmoAct2 model.

The weights go from the shards straight into a model without memory, so that loading never holds
more than the model and a shard. LeRobot's own way needs them twice, because transformers 5 draws
new weights after it has read the checkpoint's.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lerobot.policies.molmoact2.molmoact2_hf_model.configuration_molmoact2 import MolmoAct2Config
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)
from safetensors import SafetensorError, safe_open

from training.errors import TrainingError

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


class CheckpointError(TrainingError):
    """A folder is not a checkpoint that can be trained."""


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32, *, fast_attention: bool = True
) -> MolmoAct2ForConditionalGeneration:
    """Read a checkpoint, single or sharded, and give the model on the CPU in training mode.

    With `fast_attention` the decoder and the image encoder attend by PyTorch's fused function
    whatever the configuration names; the connector keeps the one it was trained with, because the
    two ways of pooling treat padding differently. Raises CheckpointError.
    """
    model = empty_model(folder, fast_attention=fast_attention)
    wanted, found = set(model.state_dict()), set()
    for shard in _shards(folder):
        tensors = _read(shard, dtype)
        found |= set(tensors)
        model.load_state_dict(tensors, strict=False, assign=True)
    if wanted != found:
        odd = sorted(wanted ^ found)
        fault = "missing" if odd[0] in wanted else "too many"
        raise CheckpointError(
            f"{folder}: {len(odd)} tensors are not the public model's, such as {odd[0]} ({fault}); "
            "compare with a checkpoint in the released layout"
        )
    _fill_rope_caches(model)
    return model.train()


def empty_model(folder: Path, *, fast_attention: bool = True) -> MolmoAct2ForConditionalGeneration:
    """Build the model that a checkpoint describes on the meta device: shapes, no memory."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}; give the folder of a checkpoint")
    config = MolmoAct2Config.from_pretrained(str(folder))
    config._name_or_path = str(folder)  # where it looks for the norm stats
    if fast_attention:
        for part in (config.text_config, config.vit_config):
            part._attn_implementation = "sdpa"
    with torch.device("meta"):
        return MolmoAct2ForConditionalGeneration(config)


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        paths = [folder / SINGLE]
    else:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        paths = [folder / name for name in sorted(set(weight_map.values()))]
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; the checkpoint is not complete")
    return paths


def _read(shard: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copy every tensor into memory of its own; a mapped file would tie the model to it."""
    try:
        with safe_open(shard, framework="pt") as file:
            names = list(file.keys())
            return {name: _copied(file.get_tensor(name), dtype) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"{shard}: not readable ({error}); fetch it again") from None


def _copied(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def _fill_rope_caches(model: MolmoAct2ForConditionalGeneration) -> None:
    """Compute the rotary tables: they are in no checkpoint and would stay on the meta device."""
    transformer = model.model.transformer
    for module in transformer.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(module, name, torch.empty(0))
    transformer.prepare_rope_cache(device="cpu")
