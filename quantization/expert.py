"""The action expert in two graphs: `context` runs once a call, `expert` once a flow step.

The context graph turns the decoder's keys and values into what every block attends to: the depth
gate, the shared projections, the norms. The expert graph is one Euler step's velocity. Its flow
times are fixed, so the time embedding and all modulation matrices are folded into a table here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantization.calibration.calibration_file import Calibration
from quantization.checkpoint import Checkpoint
from quantization.config import ExpertConfig
from quantization.graph import BOOL, FLOAT, INT64, GraphWriter
from quantization.recipes import Recipe

_EXPERT = "model.action_expert"
_GATE = "model.action_expert_depth_gate"
_NORM_EPS = 1e-6  # the release's expert norms, fixed in its code
_ROPE_BASE = 10_000.0  # the release's expert rotation, fixed in its code
_PER_BLOCK = 9  # shift, scale and gate for self-attention, cross-attention and MLP


def write_context(
    checkpoint: Checkpoint,
    directory: Path,
    recipe: Recipe,
    calibration: Calibration | None = None,
) -> GraphWriter:
    """Write `context.onnx`.

    Inputs: per layer `keys.i`, `values.i` (1, L, kv_width) as the decoder gives them; with a depth
    gate also `pool` (1, L) float32, weights that sum to 1 over the rows the gate reads, and `depth`
    (L, 1) bool, the rows it scales. Outputs: `cross_keys.i`, `cross_values.i` (1, L, expert width).
    """
    config, text, expert = checkpoint.config, checkpoint.config.text, checkpoint.config.expert
    graph = GraphWriter("context", directory, recipe, calibration)
    kv_width, head_dim = text.kv_heads * text.head_dim, expert.width // expert.heads
    for index in range(text.layers):
        graph.input(f"keys.{index}", FLOAT, [1, "L", kv_width])
        graph.input(f"values.{index}", FLOAT, [1, "L", kv_width])
    if config.depth_gate != "none":
        graph.input("pool", FLOAT, [1, "L"])
        graph.input("depth", BOOL, ["L", 1])
    scale = None
    if config.depth_gate == "single":
        scale = _gate(graph, checkpoint, text.layers - 1, _GATE)
    for index in range(text.layers):
        if config.depth_gate == "per-layer":
            scale = _gate(graph, checkpoint, index, f"{_GATE}.{index}")
        for kind in ("keys", "values"):
            x = f"{kind}.{index}"
            if scale is not None:
                x = graph.op("Mul", x, scale)
            x = _shared_projection(graph, checkpoint, x, kind, kv_width, index)
            out = f"cross_{kind}.{index}"
            if kind == "keys" and expert.qk_norm:
                x = graph.head_norm(x, expert.heads, head_dim, None, expert.qk_norm_eps, "")
            graph.op("Identity", x, out=out)
            graph.output(out, FLOAT, [1, "L", expert.width])
    return graph


def write_expert(
    checkpoint: Checkpoint,
    directory: Path,
    recipe: Recipe,
    calibration: Calibration | None = None,
) -> GraphWriter:
    """Write `expert.onnx`.

    Inputs: `actions` (1, H, max_action_dim) float32 in model units, `step` (1,) int64, `cross_mask`
    (H, L) bool, and `cross_keys.i`, `cross_values.i` from the context graph. Output: `velocity`
    (1, H, max_action_dim), the flow's direction at time step / flow_steps.
    """
    config, text, expert = checkpoint.config, checkpoint.config.text, checkpoint.config.expert
    graph = GraphWriter("expert", directory, recipe, calibration)
    dim = config.max_action_dim
    actions = graph.input("actions", FLOAT, [1, "H", dim])
    step = graph.input("step", INT64, [1])
    graph.input("cross_mask", BOOL, ["H", "L"])
    for index in range(text.layers):
        graph.input(f"cross_keys.{index}", FLOAT, [1, "L", expert.width])
        graph.input(f"cross_values.{index}", FLOAT, [1, "L", expert.width])

    values = modulation_table(checkpoint)
    table = graph.weight("modulation", values)
    chunks = text.layers * _PER_BLOCK + 2
    squares = np.mean(np.square(values.reshape(expert.flow_steps, chunks, expert.width)), axis=0)
    row = graph.op("Reshape", graph.op("Gather", table, step, axis=0), graph.constant([-1]))
    modulation = graph.ops("Split", row, out=chunks, axis=0, num_outputs=chunks)
    horizon = graph.op("Shape", actions, start=1, end=2)
    rotation = [
        graph.op(
            "Slice",
            graph.weight(f"rope.{name}", values),
            graph.constant([0]),
            horizon,
            graph.constant([1]),
        )
        for name, values in zip(
            ("cos", "sin"), _rotation(expert, config.max_action_horizon), strict=True
        )
    ]
    x = _linear(graph, checkpoint, actions, "action_embed", expert.width, dim)
    for index in range(text.layers):
        chunk = slice(index * _PER_BLOCK, (index + 1) * _PER_BLOCK)
        part = _Modulation(graph, modulation[chunk], squares[chunk])
        x = _block(graph, checkpoint, x, index, part, rotation)
    x = _Modulation(graph, modulation[-2:], squares[-2:]).norm(x, 0)
    _linear(graph, checkpoint, x, "final_layer.linear", dim, expert.width, out="velocity")
    graph.output("velocity", FLOAT, [1, "H", dim])
    return graph


def modulation_table(checkpoint: Checkpoint) -> np.ndarray:
    """Fold time embedding and modulations: (flow_steps, (9 layers + 2) * width) float32.

    Chunks come in the order the blocks use them; scales are stored as 1 + scale, ready to multiply.
    """
    text, expert = checkpoint.config.text, checkpoint.config.expert
    half = expert.time_width // 2
    frequency = np.exp(
        np.arange(half, dtype=np.float32) * np.float32(-np.log(10_000.0) / max(half - 1, 1))
    )
    times = np.arange(expert.flow_steps, dtype=np.float32) / np.float32(expert.flow_steps)
    angles = times[:, None] * frequency
    embedded = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    embedded = np.pad(embedded, [(0, 0), (0, expert.time_width % 2)])
    hidden = _silu(_apply(checkpoint, embedded, "time_embed.1", expert.width))
    condition = _silu(_apply(checkpoint, hidden, "time_embed.3", expert.width))
    columns = []
    for index in range(text.layers):
        name = f"blocks.{index}.modulation.linear"
        block = _apply(checkpoint, condition, name, _PER_BLOCK * expert.width)
        block = block.reshape(expert.flow_steps, _PER_BLOCK, expert.width)
        block[:, 1::3] += 1  # shift, scale, gate: three times
        columns.append(block.reshape(expert.flow_steps, -1))
    final = _apply(checkpoint, condition, "final_layer.modulation.linear", 2 * expert.width)
    final[:, expert.width :] += 1
    return np.concatenate([*columns, final], axis=1)


@dataclass(frozen=True, slots=True)
class _Modulation:
    """Shift, scale and gate, for as many norms as there are: names, and mean squares (n, width)."""

    graph: GraphWriter
    names: list[str]
    squares: np.ndarray

    def norm(self, x: str, first: int) -> str:
        """Normalise, scale and shift by the pair that starts at `first`."""
        shift, scale = self.names[first : first + 2]
        normed = self.graph.op("Add", self.graph.rms_norm(x, scale, _NORM_EPS), shift)
        return self.graph.expect(normed, self.squares[first] + self.squares[first + 1])


def _block(
    graph: GraphWriter,
    checkpoint: Checkpoint,
    x: str,
    index: int,
    modulation: _Modulation,
    rotation: list[str],
) -> str:
    expert, name = checkpoint.config.expert, f"blocks.{index}"
    head_dim = expert.width // expert.heads
    normed = modulation.norm(x, 0)
    qkv = _linear(
        graph, checkpoint, normed, f"{name}.self_attn.qkv", 3 * expert.width, expert.width
    )
    q, k, v = graph.ops("Split", qkv, out=3, axis=-1, num_outputs=3)
    if expert.qk_norm:
        q, k = (
            graph.head_norm(y, expert.heads, head_dim, None, expert.qk_norm_eps, "") for y in (q, k)
        )
    if expert.rope:
        q, k = (graph.op("RotaryEmbedding", y, *rotation, num_heads=expert.heads) for y in (q, k))
    heads = {"q_num_heads": expert.heads, "kv_num_heads": expert.heads}
    mixed = graph.op("Attention", q, k, v, **heads)
    mixed = _square(graph, checkpoint, mixed, f"{name}.self_attn.out_proj")
    x = graph.op("Add", x, graph.op("Mul", mixed, modulation.names[2]))

    normed = modulation.norm(x, 3)
    q = _square(graph, checkpoint, normed, f"{name}.cross_attn.q_proj")
    if expert.qk_norm:
        q = graph.head_norm(q, expert.heads, head_dim, None, expert.qk_norm_eps, "")
    keys, values = f"cross_keys.{index}", f"cross_values.{index}"
    mixed = graph.op("Attention", q, keys, values, "cross_mask", **heads)
    mixed = _square(graph, checkpoint, mixed, f"{name}.cross_attn.out_proj")
    x = graph.op("Add", x, graph.op("Mul", mixed, modulation.names[5]))

    normed = modulation.norm(x, 6)
    up, down = (expert.mlp_width, expert.width), (expert.width, expert.mlp_width)
    hidden = graph.op(
        "Mul",
        graph.silu(_linear(graph, checkpoint, normed, f"{name}.mlp.gate_proj", *up)),
        _linear(graph, checkpoint, normed, f"{name}.mlp.up_proj", *up),
    )
    hidden = _linear(graph, checkpoint, hidden, f"{name}.mlp.down_proj", *down)
    return graph.op("Add", x, graph.op("Mul", hidden, modulation.names[8]), out=f"{name}.hidden")


def _gate(graph: GraphWriter, checkpoint: Checkpoint, layer: int, source: str) -> str:
    """Return (L, 1): sigmoid of a linear read of the mean value on depth rows, 1 elsewhere."""
    text = checkpoint.config.text
    kv_width = text.kv_heads * text.head_dim
    matrix = checkpoint.tensor(f"{source}.weight", (1, kv_width))
    bias = checkpoint.tensor(f"{source}.bias", (1,))
    values = graph.op("Squeeze", f"values.{layer}", graph.constant([0]))
    pooled = graph.op("MatMul", "pool", values)
    gate = graph.op("Sigmoid", graph.linear(pooled, f"depth_gate.{layer}", matrix, bias))
    return graph.op("Where", "depth", gate, graph.constant(1.0, np.float32))


def _shared_projection(
    graph: GraphWriter, checkpoint: Checkpoint, x: str, kind: str, kv_width: int, index: int
) -> str:
    expert = checkpoint.config.expert
    name = {"keys": "context_k_proj", "values": "context_v_proj"}[kind]
    matrix = checkpoint.tensor(f"{_EXPERT}.{name}.weight", (expert.width, kv_width))
    x = graph.linear(x, name, matrix, out=f"{name}.{index}")
    if expert.context_norm:
        ones = graph.weight("ones", np.ones(expert.width, np.float32))
        x = graph.rms_norm(x, ones, _NORM_EPS)
    return x


def _rotation(expert: ExpertConfig, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    half = expert.width // expert.heads // 2
    inverse = 1.0 / np.float32(_ROPE_BASE) ** (np.arange(half, dtype=np.float32) / np.float32(half))
    angles = np.arange(horizon, dtype=np.float32)[:, None] * inverse
    return np.cos(angles)[None], np.sin(angles)[None]


def _square(graph: GraphWriter, checkpoint: Checkpoint, x: str, name: str) -> str:
    width = checkpoint.config.expert.width
    return _linear(graph, checkpoint, x, name, width, width)


def _linear(
    graph: GraphWriter,
    checkpoint: Checkpoint,
    x: str,
    name: str,
    outputs: int,
    inputs: int,
    out: str | None = None,
) -> str:
    matrix = checkpoint.tensor(f"{_EXPERT}.{name}.weight", (outputs, inputs))
    bias = checkpoint.tensor(f"{_EXPERT}.{name}.bias", (outputs,))
    return graph.linear(x, name, matrix, bias, out=out)


def _apply(checkpoint: Checkpoint, x: np.ndarray, name: str, outputs: int) -> np.ndarray:
    matrix = checkpoint.tensor(f"{_EXPERT}.{name}.weight", (outputs, x.shape[1]))
    return x @ matrix.T + checkpoint.tensor(f"{_EXPERT}.{name}.bias", (outputs,))


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))
