"""Writes a trained model as a checkpoint in the released layout, all of it or nothing.

A model with LoRA adapters is written as adapters (peft's files) beside the parameters that were
trained in full; `training.model.load` puts them onto their base again.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import peft
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from lerobot.policies.molmoact2.molmoact2_hf_model.configuration_molmoact2 import MolmoAct2Config
from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)
from safetensors.torch import save_file

from training.errors import CheckpointError
from training.model.adapt import has_adapters
from training.model.load import (
    ADAPTER_CONFIG,
    ADAPTERS,
    CONFIG,
    INDEX,
    TRAINED,
    read_config,
)
from training.whole_folder import whole_folder

ACTION_TOKENIZER = "action_tokenizer"
MIB = 1 << 20
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

# What a stage may change in config.json; all else is carried over as it stands.
_GRAFTED = (
    "add_action_expert",
    "action_mode",
    "enable_depth_reasoning",
    "action_expert_depth_gate",
    "action_expert_depth_gate_per_layer",
    "action_expert_depth_gate_init_bias",
)
_EXPERT = (
    "model_type",
    "hidden_size",
    "num_layers",
    "num_heads",
    "mlp_ratio",
    "ffn_multiple_of",
    "timestep_embed_dim",
    "context_layer_norm",
    "qk_norm",
    "qk_norm_eps",
    "rope",
    "causal_attn",
    "attn_dropout",
    "dropout",
)
_CARRIED = (".json", ".jinja", ".txt")


def save_checkpoint(
    model: MolmoAct2ForConditionalGeneration,
    source: Path,
    out: Path,
    dtype: torch.dtype = torch.float32,
    *,
    state: Mapping[str, torch.Tensor] | None = None,
    norm_stats: Path | None = None,
    action_tokenizer: Path | None = None,
    made_by: str = "",
    max_shard_mib: float = 4768,
) -> None:
    """Write `out`: weights as `dtype` (bfloat16 rounded to nearest even), all else from `source`.

    `state` replaces `model.state_dict()` where the parameters are spread over processes.
    `norm_stats` and the folder `action_tokenizer` replace the source's. `made_by` is the command,
    for the model card. Raises OutputExistsError, CheckpointError.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"weights as {dtype} are not supported; use float32 or bfloat16")
    state = model.state_dict() if state is None else state
    with whole_folder(out) as folder:
        _carry(source, folder, norm_stats, action_tokenizer, model.config.norm_stats_filename)
        _write_json(folder / CONFIG, _config(model.config, read_config(source), dtype))
        if has_adapters(model):
            _write_adapters(model, state, source, folder, dtype)
        else:
            _write_weights(state, folder, dtype, max_shard_mib)
        (folder / "README.md").write_text(_card(out.name, source, dtype, made_by), "utf-8")


def _carry(
    source: Path,
    folder: Path,
    norm_stats: Path | None,
    action_tokenizer: Path | None,
    norm_stats_name: str,
) -> None:
    for path in source.iterdir():
        if path.is_file() and path.suffix in _CARRIED and path.name not in (INDEX, ADAPTER_CONFIG):
            shutil.copyfile(path, folder / path.name)
    if norm_stats is not None:
        shutil.copyfile(norm_stats, folder / norm_stats_name)
    tokenizer = action_tokenizer or source / ACTION_TOKENIZER
    if action_tokenizer is not None or tokenizer.is_dir():
        shutil.copytree(tokenizer, folder / ACTION_TOKENIZER)


def _config(
    config: MolmoAct2Config, written: dict[str, object], dtype: torch.dtype
) -> dict[str, object]:
    """Give the content of config.json: the source's, and what grafting changed."""
    content = {**written, "dtype": DTYPES[dtype]}
    content.pop("torch_dtype", None)  # what older exports call it
    content |= {name: getattr(config, name) for name in _GRAFTED}
    if config.add_action_expert and not written.get("action_expert_config"):
        expert = config.action_expert_config
        content["action_expert_config"] = {name: getattr(expert, name) for name in _EXPERT}
    return content


def _write_weights(
    state: Mapping[str, torch.Tensor], folder: Path, dtype: torch.dtype, max_shard_mib: float
) -> None:
    held = max(tensor.element_size() for tensor in state.values())
    limit = max_shard_mib * MIB * held / dtype.itemsize  # shards are planned by what is in memory
    plan = split_torch_state_dict_into_shards(
        dict(state), filename_pattern="model{suffix}.safetensors", max_shard_size=math.floor(limit)
    )
    for name, tensors in plan.filename_to_tensors.items():
        _write_tensors(folder / name, {n: state[n] for n in tensors}, dtype)
    if plan.is_sharded:
        count = sum(tensor.numel() for tensor in state.values())
        metadata = {"total_parameters": count, "total_size": count * dtype.itemsize}
        weight_map = dict(sorted(plan.tensor_to_filename.items()))
        _write_json(folder / INDEX, {"metadata": metadata, "weight_map": weight_map})


def _write_adapters(
    model: MolmoAct2ForConditionalGeneration,
    state: Mapping[str, torch.Tensor],
    source: Path,
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write the adapters, and what was trained in full beside them."""
    adapters = peft.get_peft_model_state_dict(model, state_dict=dict(state))
    named = {f"base_model.model.{name}": tensor for name, tensor in adapters.items()}
    _write_tensors(folder / ADAPTERS, named, dtype)
    in_full = {
        name: state[name]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    }
    _write_tensors(folder / TRAINED, in_full, dtype)
    config = model.peft_config["default"]
    config.base_model_name_or_path = str(source)
    config.save_pretrained(str(folder))


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    stored = {n: t.detach().to("cpu", dtype).contiguous() for n, t in tensors.items()}
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it private


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _card(name: str, source: Path, dtype: torch.dtype, made_by: str) -> str:
    command = f"Made by\n\n    {made_by}\n" if made_by else "Made with `molmoact-train`.\n"
    return f"# {name}\n\nMolmoAct2, {DTYPES[dtype]}, trained from `{source}`. {command}"
