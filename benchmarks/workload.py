"""What a call of a model reads and multiplies, stage by stage, counted without running it.

A stage is a list of passes. A pass reads matrices and cached keys and values once, and multiplies
rows by matrices; attention is counted apart, because it stays in floating point. Norms, copies and
the preparation of pictures are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.floors import DECODER, always_used, of_graph, prompt_graph
from benchmarks.model_shapes import Shape, planned_layers, shapes_of
from edge.images import ImageLayout, ImagePatches, cut_image
from edge.manifest import CONTINUOUS, LayerEntry, Manifest, ModelEntry
from edge.prompt import image_text
from quantization.config import CheckpointConfig
from quantization.recipes import Recipe, find_recipe

VISION, PREFILL, DEPTH, EXPERT = STAGES = ("vision", "prefill", "depth", "expert")
ATTENTION = "attention"  # beside the formats of matrices
TEXT_TOKENS = 101  # of the prompt, besides pictures: 497 of the full-size model less 2 x 198
_FLOAT_BYTES = 4  # of keys and values, in this runtime


@dataclass(frozen=True, slots=True)
class Workload:
    """A model in a recipe."""

    name: str
    recipe: str
    model: ModelEntry
    layers: dict[str, LayerEntry]
    shapes: dict[str, Shape]  # exact from a configuration, of the right size from a manifest

    def in_recipe(self, recipe: Recipe) -> Workload:
        """Return the same model as a build with another recipe would store it."""
        layers = planned_layers(self.shapes, recipe)
        return Workload(self.name, recipe.name, self.model, layers, self.shapes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all matrices, the embeddings apart, which stay on disk."""
        return sum(layer.size_bytes for layer in self.layers.values())

    @property
    def bundle_bytes(self) -> int:
        """Bytes of a bundle's large files: the matrices and the embeddings."""
        size = 2 if self.model.embedding_dtype == "bfloat16" else 4
        return self.weight_bytes + size * self.model.embedding_rows * self.model.width


@dataclass(frozen=True, slots=True)
class Scene:
    """What one call sees and is asked."""

    crops: int  # pictures after cutting, as the vision tower reads them
    picture_tokens: int  # features that it gives
    prompt_tokens: int
    horizon: int  # actions


@dataclass(frozen=True, slots=True)
class Scenario:
    """How much depth is reasoned about in one call."""

    name: str
    depth: bool
    later_passes: int  # behind the one that rides on the prefill
    rows_a_pass: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of a graph, or several alike."""

    times: int
    matrices: int  # that it multiplies by: each has a few small operations around it
    read_bytes: dict[str, float]  # by the format of what is read
    operations: dict[str, float]  # by the format of the matrix, or ATTENTION; 2 a product


def workload_of_manifest(manifest: Manifest, name: str) -> Workload:
    """Count a bundle; a manifest does not say a matrix's sides, so they are taken as usual."""
    model = manifest.model
    inputs = {"context": model.kv_width, "expert": model.expert_width}
    shapes = {}
    for path, layer in manifest.recipe.layers.items():
        if layer.graph != "prefill":
            side = inputs.get(layer.graph) or model.width
            shapes[path] = (max(1, layer.weights // side), side)
    return Workload(name, manifest.recipe.name, model, manifest.recipe.layers, shapes)


def workload_of_config(config: CheckpointConfig, recipe: str, name: str) -> Workload:
    """Count what a bundle with continuous actions would be; raises `BuildError`."""
    from quantization.build import model_entry  # needs ONNX, which counting a bundle does not

    model = model_entry(config, "bfloat16", (CONTINUOUS,))
    shapes = shapes_of(config, model.head_rows)
    chosen = find_recipe(recipe)
    return Workload(name, chosen.name, model, planned_layers(shapes, chosen), shapes)


def scene_of(
    model: ModelEntry, pictures: Sequence[tuple[int, int]], horizon: int | None = None
) -> Scene:
    """Return what a call with `pictures` of (width, height) pixels gives the model to do."""
    cut = [_cut(width, height, model.image) for width, height in pictures]
    tokens = sum(image_text(picture, model.prompt).count("<") for picture in cut)
    return Scene(
        crops=sum(len(picture.patches) for picture in cut),
        picture_tokens=sum(len(picture.pooling) for picture in cut),
        prompt_tokens=tokens + TEXT_TOKENS,
        horizon=horizon or model.max_action_horizon,
    )


def stage_passes(work: Workload, scene: Scene, scenario: Scenario) -> dict[str, list[Pass]]:
    """Return the passes of every stage of one call."""
    model, cells = work.model, work.model.depth_cells
    riding = cells + 2 if scenario.depth else 0
    length = scene.prompt_tokens + riding
    later = _decoder_pass(work, scenario.rows_a_pass, length, scenario.later_passes)
    return {
        VISION: [_vision_pass(work, scene)],
        PREFILL: [_prefill_pass(work, scene.prompt_tokens, riding)],
        DEPTH: [later] if scenario.later_passes else [],
        EXPERT: (
            _expert_passes(work, scene.horizon, length)
            if CONTINUOUS in model.actions
            else [_decoder_pass(work, 1, length, scene.horizon)]
        ),
    }


def cache_bytes(model: ModelEntry, length: int) -> int:
    """Return the bytes of keys and values for `length` tokens."""
    return 2 * model.layers * model.kv_width * length * _FLOAT_BYTES


@lru_cache(maxsize=16)
def _cut(width: int, height: int, layout: ImageLayout) -> ImagePatches:
    return cut_image(np.zeros((height, width, 3), np.uint8), layout)


def _vision_pass(work: Workload, scene: Scene) -> Pass:
    layers, image = work.layers, work.model.image
    patches = image.grid[0] * image.grid[1]
    pooled = image.pooling_height * image.pooling_width
    operations: dict[str, float] = {}
    for path, layer in layers.items():
        if layer.graph != VISION:
            continue
        name = path.removeprefix("vision/")
        rows = scene.picture_tokens
        if name.startswith(("blocks.", "patch_")):
            rows = scene.crops * patches
        elif name in ("pool.wk", "pool.wv"):
            rows *= pooled
        _add(operations, layer.format, 2.0 * layer.weights * rows)
    outputs = [entry for path, entry in layers.items() if path.endswith(".wo") and "blocks" in path]
    for layer in outputs:  # a square matrix: its side is the width of all heads
        width = math.sqrt(layer.weights)
        _add(operations, ATTENTION, 4.0 * scene.crops * patches**2 * width)
    whole = of_graph(layers, VISION)
    return Pass(1, len(whole), _read(whole), operations)


def _prefill_pass(work: Workload, prompt: int, riding: int) -> Pass:
    graph = prompt_graph(work.layers)
    rows = prompt + riding
    used = always_used(work.layers, graph, work.model.layers)
    whole = of_graph(work.layers, graph)  # the rows that are asked meet the rest as well
    operations = _multiply(used, prompt)
    for form, count in _multiply(whole, riding).items():
        _add(operations, form, count)
    _add(operations, ATTENTION, 4.0 * rows**2 * _query_width(work) * work.model.layers)
    met = whole if riding else used
    return Pass(1, len(met), _read(met), operations)


def _decoder_pass(work: Workload, rows: int, length: int, times: int) -> Pass:
    layers = of_graph(work.layers, DECODER)
    operations = _multiply(layers, rows)
    attended = 4.0 * rows * length * _query_width(work) * work.model.layers
    _add(operations, ATTENTION, attended)
    reads = _read(layers)
    _add(reads, ATTENTION, float(cache_bytes(work.model, length)))
    return Pass(times, len(layers), reads, operations)


def _expert_passes(work: Workload, horizon: int, length: int) -> list[Pass]:
    model = work.model
    context = of_graph(work.layers, "context", "context_")
    shared = {form: n * model.layers for form, n in _multiply(context, length).items()}
    step = of_graph(work.layers, EXPERT)
    operations = _multiply(step, horizon)
    attended = 4.0 * horizon * (length + horizon) * model.expert_width * model.layers
    _add(operations, ATTENTION, attended)
    reads = _read(step)
    cross = 2 * model.layers * model.expert_width * length * _FLOAT_BYTES
    _add(reads, ATTENTION, float(cross))
    cache = {ATTENTION: float(cache_bytes(model, length))}
    return [
        Pass(1, len(context) * model.layers, cache, shared),
        Pass(model.flow_steps, len(step), reads, operations),
    ]


def _query_width(work: Workload) -> float:
    return work.layers[f"{DECODER}/blocks.0.attn_out"].weights / work.model.width


def _read(layers: Iterable[LayerEntry]) -> dict[str, float]:
    read: dict[str, float] = {}
    for layer in layers:
        _add(read, layer.format, float(layer.size_bytes))
    return read


def _multiply(layers: Iterable[LayerEntry], rows: int) -> dict[str, float]:
    operations: dict[str, float] = {}
    for layer in layers:
        _add(operations, layer.format, 2.0 * layer.weights * rows)
    return operations


def _add(sums: dict[str, float], key: str, value: float) -> None:
    sums[key] = sums.get(key, 0.0) + value
