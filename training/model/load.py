"""Opens a checkpoint in the released layout as LeRobot's MolmoAct2 model.

The weights go from the shards straight into a model without memory, so that loading never holds
more than the model and a shard. LeRobot's own way needs them twice, because transformers 5 draws
new weights after it has read the checkpoint's.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.molmoact2.molmoact2_hf_model.configuration_molmoact2 import MolmoAct2Config
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)
from safetensors import SafetensorError, safe_open

from edge.errors import one_line
from training.errors import CheckpointError

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# A checkpoint of a LoRA run: peft's two files, and what was trained in full beside them.
ADAPTER_CONFIG, ADAPTERS = "adapter_config.json", "adapter_model.safetensors"
TRAINED = "trained.safetensors"


def load_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    *,
    fast_attention: bool = True,
    residual_dropout: float | None = None,
    base: Path | None = None,
) -> MolmoAct2ForConditionalGeneration:
    """Read a checkpoint, single or sharded, and give the model on the CPU in training mode.

    With `fast_attention` the decoder and the image encoder attend by PyTorch's fused function
    whatever the configuration names; the connector keeps the one it was trained with, because the
    two ways of pooling treat padding differently. `residual_dropout` replaces the decoder's. LoRA
    adapters are merged into their base, which is `base` or the one that they name. Raises
    CheckpointError.
    """
    model = empty_model(folder, fast_attention=fast_attention, residual_dropout=residual_dropout)
    adapted = (folder / ADAPTER_CONFIG).is_file()
    shards = [*_shards(base or _base(folder)), folder / TRAINED] if adapted else _shards(folder)
    found = _read_into(model, shards, dtype)
    wanted = set(model.state_dict())
    if wanted != found:
        odd = sorted(wanted ^ found)
        fault = "missing" if odd[0] in wanted else "too many"
        raise CheckpointError(
            f"{folder}: {len(odd)} tensors are not the public model's, such as {odd[0]} ({fault}); "
            "compare with a checkpoint in the released layout"
        )
    _fill_rope_caches(model)
    if adapted:
        _merge_adapters(model, folder, dtype)
    return model.train()


def empty_model(
    folder: Path, *, fast_attention: bool = True, residual_dropout: float | None = None
) -> MolmoAct2ForConditionalGeneration:
    """Build the model that a checkpoint describes on the meta device: shapes, no memory."""
    read_config(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the public model's older ways
        try:
            config = MolmoAct2Config.from_pretrained(str(folder))
        except Exception as error:  # noqa: BLE001  (transformers raises whatever it meets)
            raise CheckpointError(_undescribed(folder, error)) from None
    config._name_or_path = str(folder)  # where it looks for the norm stats
    if residual_dropout is not None:
        config.text_config.residual_dropout = residual_dropout
    if fast_attention:
        for part in (config.text_config, config.vit_config):
            part._attn_implementation = "sdpa"
    try:
        with torch.device("meta"):
            return MolmoAct2ForConditionalGeneration(config)
    except Exception as error:  # noqa: BLE001  (the public model checks nothing)
        raise CheckpointError(_undescribed(folder, error)) from None


def _undescribed(folder: Path, error: Exception) -> str:
    return f"{folder / CONFIG}: describes no model ({one_line(error)}); fetch it again"


def read_config(folder: Path) -> dict[str, object]:
    """Read a checkpoint's config.json as it stands. Raises CheckpointError."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}; give the folder of a checkpoint")
    content = _read_json(path)
    if content.get("model_type") != "molmoact2":
        raise CheckpointError(f"{path}: model_type is not molmoact2; give a MolmoAct2 checkpoint")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object; fetch it again")
    return content


def _base(folder: Path) -> Path:
    """Find the checkpoint that adapters were trained beside."""
    name = _read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    base = Path(str(name))
    if not base.is_dir():
        raise CheckpointError(
            f"{folder}: its adapters belong to {base}, which is not there; name the folder with "
            "molmoact-train merge --base"
        )
    return base


def _read_into(
    model: MolmoAct2ForConditionalGeneration, shards: Iterable[Path], dtype: torch.dtype
) -> set[str]:
    """Give the model the shards' tensors, later ones over earlier ones; return their names."""
    found: set[str] = set()
    for shard in shards:
        tensors = _read(shard, dtype)
        found |= set(tensors)
        try:
            model.load_state_dict(tensors, strict=False, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{shard}: does not fit config.json: {reason[:200]}") from None
    return found


def _merge_adapters(
    model: MolmoAct2ForConditionalGeneration, folder: Path, dtype: torch.dtype
) -> None:
    import peft  # only here: reading plain checkpoints does without it

    from training.model.adapt import merge

    try:
        peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(str(folder)), model)
    except Exception as error:  # noqa: BLE001  (peft raises whatever it meets)
        reason = one_line(error)
        raise CheckpointError(f"{folder / ADAPTER_CONFIG}: no adapters ({reason})") from None
    prefix = "base_model.model."
    adapters = {n.removeprefix(prefix): t for n, t in _read(folder / ADAPTERS, dtype).items()}
    result = peft.set_peft_model_state_dict(model, adapters)
    lost = [name for name in result.missing_keys if ".lora_" in name]
    if lost or result.unexpected_keys:
        odd = sorted([*lost, *result.unexpected_keys])
        raise CheckpointError(f"{folder / ADAPTERS}: {len(odd)} adapters do not fit, as {odd[0]}")
    merge(model).requires_grad_(True)


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        paths = [folder / SINGLE]
    else:
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or {*map(type, weight_map.values())} != {str}:
            raise CheckpointError(f"{index}: weight_map names no files; fetch it again")
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
    except (SafetensorError, OSError) as error:
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
