"""The matrices of a model, from its configuration alone: what a bundle of it would hold.

The names and shapes are those that the graph writers of `quantization` give; a test compares them
with bundles. So a model's size and work can be told before anybody has its weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from edge.manifest import LayerEntry
from quantization.config import CheckpointConfig, ExpertConfig, TextConfig, VitConfig
from quantization.formats import Format
from quantization.recipes import Recipe

Shape = tuple[int, int]  # outputs, inputs
_SCALE_BYTES = 4


def shapes_of(config: CheckpointConfig, head_rows: int) -> dict[str, Shape]:
    """Return the shape of every matrix by its path; prefill's own copies are not listed."""
    kv_width = config.text.kv_heads * config.text.head_dim
    pixels = config.image.patch_size**2 * 3
    shapes = _named("vision", _vision(config.vit, config.text.width, pixels))
    shapes |= _named("decoder", _decoder(config.text, head_rows))
    if config.expert is not None:
        first = {"none": config.text.layers, "single": config.text.layers - 1, "per-layer": 0}
        gated = range(first[config.depth_gate], config.text.layers)
        shapes |= _named("context", _context(config.expert, kv_width, gated))
        shapes |= _named("expert", _expert(config.expert, config.text, config.max_action_dim))
    return shapes


def planned_layers(shapes: Mapping[str, Shape], recipe: Recipe) -> dict[str, LayerEntry]:
    """Return a manifest's layers as a build with `recipe` would state them; errors are nan."""
    own = (
        {}
        if not recipe.splits_prefill
        else {
            f"prefill/{path.removeprefix('decoder/')}": shape
            for path, shape in shapes.items()
            if path.startswith("decoder/")
        }
    )
    return {path: _planned(path, shape, recipe) for path, shape in {**shapes, **own}.items()}


def stored_bytes(shape: Shape, form: Format) -> int:
    """Return the bytes of codes, scales and zero points, see `quantization.formats`."""
    outputs, inputs = shape
    if form.bits == 32:
        return 4 * outputs * inputs
    if not form.block:
        return outputs * (inputs + _SCALE_BYTES)
    blocks = -(-inputs // form.block)
    zeros = 0 if form.symmetric else -(-blocks * form.bits // 8)
    return outputs * (blocks * (form.block * form.bits // 8 + _SCALE_BYTES) + zeros)


def _planned(path: str, shape: Shape, recipe: Recipe) -> LayerEntry:
    form = recipe(path, shape)
    return LayerEntry(
        graph=path.partition("/")[0],
        weights=shape[0] * shape[1],
        size_bytes=stored_bytes(shape, form),
        format=form.name,
        relative_error=math.nan,
        rounding_error=math.nan,
    )


def _named(graph: str, shapes: Iterator[tuple[str, int, int]]) -> dict[str, Shape]:
    return {f"{graph}/{name}": (outputs, inputs) for name, outputs, inputs in shapes}


def _vision(vit: VitConfig, width: int, pixels: int) -> Iterator[tuple[str, int, int]]:
    q_width, kv_width = vit.heads * vit.head_dim, vit.kv_heads * vit.head_dim
    yield "patch_embedding", vit.width, pixels
    for index in range(vit.built_layers):
        part = f"blocks.{index}"
        yield f"{part}.qkv", q_width + 2 * kv_width, vit.width
        yield f"{part}.wo", vit.width, q_width
        yield f"{part}.w1", vit.mlp_width, vit.width
        yield f"{part}.w2", vit.width, vit.mlp_width
    tapped = vit.width * len(vit.taps)
    q_width, kv_width = vit.pool_heads * vit.pool_head_dim, vit.pool_kv_heads * vit.pool_head_dim
    yield "pool.wq", q_width, tapped
    yield "pool.wk", kv_width, tapped
    yield "pool.wv", kv_width, tapped
    yield "pool.wo", vit.pool_width, q_width
    yield "projector.w1", vit.projector_width, vit.pool_width
    yield "projector.w3", vit.projector_width, vit.pool_width
    yield "projector.w2", width, vit.projector_width


def _decoder(text: TextConfig, head_rows: int) -> Iterator[tuple[str, int, int]]:
    q_width, kv_width = text.heads * text.head_dim, text.kv_heads * text.head_dim
    for index in range(text.layers):
        part = f"blocks.{index}"
        yield f"{part}.k", kv_width, text.width
        yield f"{part}.v", kv_width, text.width
        yield f"{part}.q", q_width, text.width
        yield f"{part}.attn_out", text.width, q_width
        yield f"{part}.ff_up", text.mlp_width, text.width
        yield f"{part}.ff_gate", text.mlp_width, text.width
        yield f"{part}.ff_out", text.width, text.mlp_width
    if head_rows:
        yield "head", head_rows, text.width


def _context(expert: ExpertConfig, kv_width: int, gated: range) -> Iterator[tuple[str, int, int]]:
    yield "context_k_proj", expert.width, kv_width
    yield "context_v_proj", expert.width, kv_width
    for layer in gated:
        yield f"depth_gate.{layer}", 1, kv_width


def _expert(
    expert: ExpertConfig, text: TextConfig, action_dim: int
) -> Iterator[tuple[str, int, int]]:
    yield "action_embed", expert.width, action_dim
    for index in range(text.layers):
        part = f"blocks.{index}"
        yield f"{part}.self_attn.qkv", 3 * expert.width, expert.width
        yield f"{part}.self_attn.out_proj", expert.width, expert.width
        yield f"{part}.cross_attn.q_proj", expert.width, expert.width
        yield f"{part}.cross_attn.out_proj", expert.width, expert.width
        yield f"{part}.mlp.gate_proj", expert.mlp_width, expert.width
        yield f"{part}.mlp.up_proj", expert.mlp_width, expert.width
        yield f"{part}.mlp.down_proj", expert.width, expert.mlp_width
    yield "final_layer.linear", action_dim, expert.width
