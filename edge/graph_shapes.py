"""The inputs and outputs of each graph, as a manifest implies them."""

from __future__ import annotations

from collections.abc import Mapping

from edge.bundle import CONTEXT, DECODER, EXPERT, PREFILL, VISION
from edge.manifest import ModelEntry

Shape = tuple[int | str, ...]  # text is a size that varies from call to call
Shapes = dict[str, Shape]

_KINDS = ("keys", "values")


def graph_shapes(model: ModelEntry) -> dict[str, tuple[Shapes, Shapes]]:
    """State (inputs, outputs) of each graph file by name, of those too that a bundle may lack."""
    layers = range(model.layers)
    pixels = model.image.patch_size**2 * 3
    rows, columns = model.image.grid
    pooled = model.image.pooling_height * model.image.pooling_width
    vision = (
        {"patches": ("crops", rows * columns, pixels), "pooling": ("tokens", pooled)},
        {"image_features": ("tokens", model.width)},
    )
    expert_inputs: Shapes = {
        "actions": (1, "H", model.max_action_dim),
        "step": (1,),
        "cross_mask": ("H", "L"),
    }
    cross: Shapes = {f"cross_{k}.{i}": (1, "L", model.expert_width) for i in layers for k in _KINDS}
    context: Shapes = {f"{k}.{i}": (1, "L", model.kv_width) for i in layers for k in _KINDS}
    if model.depth_gate != "none":
        context |= {"pool": (1, "L"), "depth": ("L", 1)}
    return {
        VISION: vision,
        DECODER: _decoder_shapes(model),
        PREFILL: _decoder_shapes(model),
        CONTEXT: (context, cross),
        EXPERT: (expert_inputs | cross, {"velocity": (1, "H", model.max_action_dim)}),
    }


def shape_problem(kind: str, found: Mapping[str, Shape], expected: Shapes) -> str | None:
    """Say which `kind` (input or output) of a graph is not as expected; None when all are."""
    for name in sorted(set(expected) | set(found)):
        if found.get(name) != expected.get(name):
            return (
                f"{kind} {name} is {found.get(name, 'absent')}, the manifest implies "
                f"{expected.get(name, 'none')}; build the bundle again"
            )
    return None


def _decoder_shapes(model: ModelEntry) -> tuple[Shapes, Shapes]:
    layers, half = range(model.layers), model.head_dim // 2
    inputs: Shapes = {
        "embeddings": (1, "T", model.width),
        "cos": (1, "T", half),
        "sin": (1, "T", half),
        "prompt_mask": ("T0", "T0"),
        "span_mask": ("S", "L"),
        "rows": ("R",),
    }
    inputs |= {f"past_{k}.{i}": (1, "P", model.kv_width) for i in layers for k in _KINDS}
    inputs |= {f"span_{k}.{i}": (1, "C", model.kv_width) for i in layers for k in _KINDS}
    outputs: Shapes = {f"{k}.{i}": (1, "T", model.kv_width) for i in layers for k in _KINDS}
    outputs["hidden"] = (1, "R", model.width)
    if model.head_rows:
        outputs["logits"] = (1, "R", model.head_rows)
    return inputs, outputs
