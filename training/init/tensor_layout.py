"""Names and shapes of every tensor in a MolmoAct2 checkpoint, as pure data.

The names are those of the released safetensors files (and of LeRobot's
`MolmoAct2ForConditionalGeneration`); matrices are stored as (output, input).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from training.init.sizes import DepthGate, ModelSize

CHANNELS = 3
EXPERT_CHUNKS = 9  # shift, scale and gate for self-attention, cross-attention and MLP
FINAL_CHUNKS = 2  # shift and scale


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name in the file and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Give the number of values."""
        count = 1
        for side in self.shape:
            count *= side
        return count


def tensor_layout(size: ModelSize) -> tuple[TensorSpec, ...]:
    """List the tensors of a checkpoint of this size, in the order in which they are written."""
    return (
        *_text(size),
        *_vision(size),
        *(_expert(size) if size.has_expert else ()),
        *_depth_gate(size),
        TensorSpec("lm_head.weight", (size.text.vocab_rows, size.text.width)),
    )


def _text(size: ModelSize) -> Iterator[TensorSpec]:
    text = size.text
    queries, keys = text.heads * text.head_dim, text.kv_heads * text.head_dim
    top = "model.transformer"
    yield TensorSpec(f"{top}.wte.embedding", (text.vocab_rows, text.width))
    yield TensorSpec(f"{top}.wte.new_embedding", (text.added_rows, text.width))
    yield TensorSpec(f"{top}.rotary_emb.inv_freq", (text.head_dim // 2,))
    for layer in range(text.layers):
        block = f"{top}.blocks.{layer}"
        yield TensorSpec(f"{block}.attn_norm.weight", (text.width,))
        yield TensorSpec(f"{block}.self_attn.att_proj.weight", (queries + 2 * keys, text.width))
        yield TensorSpec(f"{block}.self_attn.q_norm.weight", (text.head_dim,))
        yield TensorSpec(f"{block}.self_attn.k_norm.weight", (text.head_dim,))
        yield TensorSpec(f"{block}.self_attn.attn_out.weight", (text.width, queries))
        yield TensorSpec(f"{block}.ff_norm.weight", (text.width,))
        yield TensorSpec(f"{block}.mlp.ff_proj.weight", (2 * text.mlp_width, text.width))
        yield TensorSpec(f"{block}.mlp.ff_out.weight", (text.width, text.mlp_width))
    yield TensorSpec(f"{top}.ln_f.weight", (text.width,))


def _vision(size: ModelSize) -> Iterator[TensorSpec]:
    vision = size.vision
    top = "model.vision_backbone"
    pixels = CHANNELS * vision.patch_size_px**2
    yield from _linear(f"{top}.image_vit.patch_embedding", vision.width, pixels)
    patches = vision.patches_per_side**2
    yield TensorSpec(f"{top}.image_vit.positional_embedding", (patches, vision.width))
    for layer in range(vision.built_layers):
        block = f"{top}.image_vit.transformer.resblocks.{layer}"
        for part in ("wq", "wk", "wv", "wo"):
            yield from _linear(f"{block}.attention.{part}", vision.width, vision.width)
        yield from _linear(f"{block}.feed_forward.w1", vision.mlp_width, vision.width)
        yield from _linear(f"{block}.feed_forward.w2", vision.width, vision.mlp_width)
        for norm in ("attention_norm", "ffn_norm"):
            yield TensorSpec(f"{block}.{norm}.weight", (vision.width,))
            yield TensorSpec(f"{block}.{norm}.bias", (vision.width,))
    tapped = vision.width * len(vision.tap_layers)
    for part in ("wq", "wk", "wv"):
        yield from _linear(f"{top}.image_pooling_2d.{part}", vision.adapter_width, tapped)
    yield from _linear(f"{top}.image_pooling_2d.wo", vision.adapter_width, vision.adapter_width)
    projector = f"{top}.image_projector"
    yield TensorSpec(f"{projector}.w1.weight", (vision.adapter_mlp_width, vision.adapter_width))
    yield TensorSpec(f"{projector}.w2.weight", (size.text.width, vision.adapter_mlp_width))
    yield TensorSpec(f"{projector}.w3.weight", (vision.adapter_mlp_width, vision.adapter_width))


def _expert(size: ModelSize) -> Iterator[TensorSpec]:
    expert = size.expert
    width, mlp = expert.width, expert.mlp_width
    context = size.text.kv_heads * size.text.head_dim
    top = "model.action_expert"
    yield from _linear(f"{top}.time_embed.1", width, expert.timestep_width)
    yield from _linear(f"{top}.time_embed.3", width, width)
    yield from _linear(f"{top}.action_embed", width, expert.max_action_dim)
    yield TensorSpec(f"{top}.context_k_proj.weight", (width, context))
    yield TensorSpec(f"{top}.context_v_proj.weight", (width, context))
    for layer in range(size.text.layers):
        block = f"{top}.blocks.{layer}"
        yield from _linear(f"{block}.self_attn.qkv", 3 * width, width)
        yield from _linear(f"{block}.self_attn.out_proj", width, width)
        yield from _linear(f"{block}.cross_attn.q_proj", width, width)
        yield from _linear(f"{block}.cross_attn.out_proj", width, width)
        yield from _linear(f"{block}.mlp.up_proj", mlp, width)
        yield from _linear(f"{block}.mlp.gate_proj", mlp, width)
        yield from _linear(f"{block}.mlp.down_proj", width, mlp)
        yield from _linear(f"{block}.modulation.linear", EXPERT_CHUNKS * width, width)
    yield from _linear(f"{top}.final_layer.modulation.linear", FINAL_CHUNKS * width, width)
    yield from _linear(f"{top}.final_layer.linear", expert.max_action_dim, width)


def _depth_gate(size: ModelSize) -> Iterator[TensorSpec]:
    context = size.text.kv_heads * size.text.head_dim
    top = "model.action_expert_depth_gate"
    if size.depth_gate is DepthGate.SHARED:
        yield from _linear(top, 1, context)
    elif size.depth_gate is DepthGate.PER_LAYER:
        for layer in range(size.text.layers):
            yield from _linear(f"{top}.{layer}", 1, context)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (outputs, inputs))
    yield TensorSpec(f"{name}.bias", (outputs,))
