"""The numbers that a plan is computed from: a model's shape and its parameters, without weights."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2 import (
    MolmoAct2ForConditionalGeneration,
)

from training.init.checkpoint_config import model_config
from training.init.sizes import ModelSize
from training.init.tokenizer import build_tokenizer
from training.model.load import empty_model

# What FSDP gathers as one, by the name of the class.
BLOCK_CLASSES = ("MolmoAct2DecoderLayer", "MolmoAct2VisionBlock")
POOLING_SIDE = 2  # patches along the side of a picture's token (MolmoAct2 release)
FRAME_TOKENS = 2  # before and after a picture's


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths and depths; every count is of values, not of bytes."""

    hidden: int
    layers: int
    query_width: int  # heads * head_dim
    key_width: int  # key-value heads * head_dim
    mlp: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_mlp: int
    patches: int  # of a picture
    picture_tokens: int
    expert_hidden: int
    expert_mlp: int
    horizon: int
    largest_block: int  # parameters that FSDP gathers at a time
    outside_blocks: int  # parameters that stay gathered during a step


def meta_model(size: ModelSize) -> MolmoAct2ForConditionalGeneration:
    """Build a model of `size` on the meta device: shapes, no memory."""
    config = model_config(size, build_tokenizer(size.text.vocab_rows), "fp32")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return empty_model(Path(folder))


def shape_of(model: MolmoAct2ForConditionalGeneration) -> Shape:
    """Read the shape off a model, on the meta device or not."""
    text, vit = model.config.text_config, model.config.vit_config
    expert = model.config.action_expert_config
    blocks = [
        sum(parameter.numel() for parameter in module.parameters())
        for module in model.modules()
        if type(module).__name__ in BLOCK_CLASSES
    ]
    side = vit.image_num_patch[0]
    pooled = -(-side // POOLING_SIDE)
    return Shape(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        query_width=text.num_attention_heads * text.head_dim,
        key_width=text.num_key_value_heads * text.head_dim,
        mlp=text.intermediate_size,
        vocabulary=text.vocab_size,
        vision_hidden=vit.hidden_size,
        vision_layers=sum(type(m).__name__ == "MolmoAct2VisionBlock" for m in model.modules()),
        vision_mlp=vit.intermediate_size,
        patches=side * vit.image_num_patch[1],
        picture_tokens=pooled * (pooled + 1) + FRAME_TOKENS,  # each row ends in a token
        expert_hidden=expert.hidden_size if expert else 0,
        expert_mlp=int(expert.hidden_size * expert.mlp_ratio) if expert else 0,
        horizon=model.config.max_action_horizon,
        largest_block=max(blocks),
        outside_blocks=sum(p.numel() for p in model.parameters()) - sum(blocks),
    )
