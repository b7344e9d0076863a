"""The vision graph: patches of all pictures in, one feature vector a picture token out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quantization.calibration.calibration_file import Calibration
from quantization.checkpoint import Checkpoint
from quantization.graph import FLOAT, INT64, UINT8, GraphWriter
from quantization.recipes import Recipe

_VIT = "model.vision_backbone.image_vit"
_POOL = "model.vision_backbone.image_pooling_2d"
_PROJECTOR = "model.vision_backbone.image_projector"


def write_vision(
    checkpoint: Checkpoint,
    directory: Path,
    recipe: Recipe,
    calibration: Calibration | None = None,
) -> GraphWriter:
    """Write `vision.onnx`: `patches` (crops, patches, pixels) uint8 and `pooling` (tokens, k) int64
    to `image_features` (tokens, decoder width) float32.
    """
    config, vit = checkpoint.config, checkpoint.config.vit
    graph = GraphWriter("vision", directory, recipe, calibration)
    pixels = config.image.patch_size**2 * 3
    pooled = config.image.pooling_height * config.image.pooling_width
    patches = graph.input("patches", UINT8, ["crops", vit.positions, pixels])
    pooling = graph.input("pooling", INT64, ["tokens", pooled])

    x = graph.op("Cast", patches, to=FLOAT)
    x = graph.op("Div", x, graph.constant(255.0, np.float32))
    x = graph.op("Mul", x, graph.constant(2.0, np.float32))
    x = graph.op("Sub", x, graph.constant(1.0, np.float32))
    x = _linear(
        graph, checkpoint, x, "patch_embedding", f"{_VIT}.patch_embedding", vit.width, pixels
    )
    name = f"{_VIT}.positional_embedding"
    positions = checkpoint.tensor(name, (vit.positions, vit.width))
    x = graph.op("Add", x, graph.weight("positional_embedding", positions))
    taps = {}
    for index in range(vit.built_layers):
        x = _block(graph, checkpoint, x, index)
        if index in vit.taps:
            taps[index] = x
    features = graph.op("Concat", *[taps[index] for index in vit.taps], axis=-1)
    tokens = _pool(graph, checkpoint, features, pooling)
    gate = graph.silu(_projector(graph, checkpoint, tokens, "w1"))
    hidden = graph.op("Mul", gate, _projector(graph, checkpoint, tokens, "w3"))
    _projector(graph, checkpoint, hidden, "w2", out="image_features")
    graph.output("image_features", FLOAT, ["tokens", config.text.width])
    return graph


def _block(graph: GraphWriter, checkpoint: Checkpoint, x: str, index: int) -> str:
    vit = checkpoint.config.vit
    source, part = f"{_VIT}.transformer.resblocks.{index}", f"blocks.{index}"
    attention = f"{source}.attention"
    q_width, kv_width = vit.heads * vit.head_dim, vit.kv_heads * vit.head_dim
    widths = {"wq": q_width, "wk": kv_width, "wv": kv_width}
    fused = np.concatenate(
        [checkpoint.tensor(f"{attention}.{n}.weight", (w, vit.width)) for n, w in widths.items()]
    )
    bias = np.concatenate(
        [checkpoint.tensor(f"{attention}.{n}.bias", (w,)) for n, w in widths.items()]
    )
    normed = _layer_norm(graph, checkpoint, x, f"{part}.attention_norm", f"{source}.attention_norm")
    qkv = graph.linear(normed, f"{part}.qkv", fused, bias)
    sizes = graph.constant(list(widths.values()))
    q, k, v = graph.ops("Split", qkv, sizes, out=3, axis=-1)
    mixed = graph.op("Attention", q, k, v, q_num_heads=vit.heads, kv_num_heads=vit.kv_heads)
    mixed = _linear(graph, checkpoint, mixed, f"{part}.wo", f"{attention}.wo", vit.width, q_width)
    x = graph.op("Add", x, mixed)
    normed = _layer_norm(graph, checkpoint, x, f"{part}.ffn_norm", f"{source}.ffn_norm")
    mlp = f"{source}.feed_forward"
    hidden = _linear(graph, checkpoint, normed, f"{part}.w1", f"{mlp}.w1", vit.mlp_width, vit.width)
    hidden = graph.op("Gelu", hidden, approximate="tanh")
    hidden = _linear(graph, checkpoint, hidden, f"{part}.w2", f"{mlp}.w2", vit.width, vit.mlp_width)
    return graph.op("Add", x, hidden, out=f"{part}.hidden")


def _pool(graph: GraphWriter, checkpoint: Checkpoint, features: str, pooling: str) -> str:
    """Attend from the mean of a token's patches to its patches; padding is zero features."""
    vit = checkpoint.config.vit
    width = vit.width * len(vit.taps)
    flat = graph.op("Reshape", features, graph.constant([-1, width]))
    valid = graph.op("GreaterOrEqual", pooling, graph.constant(0))
    weights = graph.op("Unsqueeze", graph.op("Cast", valid, to=FLOAT), graph.constant([-1]))
    safe = graph.op("Max", pooling, graph.constant(0))
    gathered = graph.op("Mul", graph.op("Gather", flat, safe, axis=0), weights)
    axis = graph.constant([1])
    if vit.pool_mean_over_valid:
        count = graph.op("ReduceSum", weights, axis, keepdims=1)
        count = graph.op("Max", count, graph.constant(1.0, np.float32))
        query = graph.op("Div", graph.op("ReduceSum", gathered, axis, keepdims=1), count)
    else:
        query = graph.op("ReduceMean", gathered, axis, keepdims=1)
    q_width, kv_width = vit.pool_heads * vit.pool_head_dim, vit.pool_kv_heads * vit.pool_head_dim
    q = _linear(graph, checkpoint, query, "pool.wq", f"{_POOL}.wq", q_width, width)
    k = _linear(graph, checkpoint, gathered, "pool.wk", f"{_POOL}.wk", kv_width, width)
    v = _linear(graph, checkpoint, gathered, "pool.wv", f"{_POOL}.wv", kv_width, width)
    inputs = [q, k, v]
    if vit.pool_masks_padding:
        inputs.append(graph.op("Unsqueeze", valid, graph.constant([1, 2])))
    mixed = graph.op(
        "Attention", *inputs, q_num_heads=vit.pool_heads, kv_num_heads=vit.pool_kv_heads
    )
    mixed = _linear(graph, checkpoint, mixed, "pool.wo", f"{_POOL}.wo", vit.pool_width, q_width)
    return graph.op("Reshape", mixed, graph.constant([-1, vit.pool_width]))


def _projector(
    graph: GraphWriter, checkpoint: Checkpoint, x: str, name: str, out: str | None = None
) -> str:
    vit, width = checkpoint.config.vit, checkpoint.config.text.width
    shape = (vit.projector_width, vit.pool_width)
    if name == "w2":
        shape = (width, vit.projector_width)
    matrix = checkpoint.tensor(f"{_PROJECTOR}.{name}.weight", shape)
    return graph.linear(x, f"projector.{name}", matrix, out=out)


def _linear(
    graph: GraphWriter,
    checkpoint: Checkpoint,
    x: str,
    part: str,
    source: str,
    outputs: int,
    inputs: int,
) -> str:
    matrix = checkpoint.tensor(f"{source}.weight", (outputs, inputs))
    return graph.linear(x, part, matrix, checkpoint.tensor(f"{source}.bias", (outputs,)))


def _layer_norm(graph: GraphWriter, checkpoint: Checkpoint, x: str, part: str, source: str) -> str:
    vit = checkpoint.config.vit
    scale, bias = (checkpoint.tensor(f"{source}.{n}", (vit.width,)) for n in ("weight", "bias"))
    names = [graph.weight(f"{part}.{n}", v) for n, v in (("weight", scale), ("bias", bias))]
    normed = graph.op("LayerNormalization", x, *names, axis=-1, epsilon=vit.layer_norm_eps)
    return graph.expect(normed, np.square(scale) + np.square(bias))
