"""The decoder graph: one pass over any number of rows, prefill and decoding alike.

A pass carries the rows of the prompt, or rows of the span behind it, or both, the prompt first.
Keys and values of earlier passes come in as views of the runtime's buffers and the new rows go out;
the runtime never copies them. Rows that want a prediction are named: the last layer's attention
output, its MLP and the head run for those rows only, and not at all when there are none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quantization.attention import Attention
from quantization.calibration.calibration_file import Calibration
from quantization.checkpoint import Checkpoint
from quantization.errors import BuildError
from quantization.graph import BOOL, FLOAT, INT64, GraphWriter
from quantization.recipes import Recipe

_BLOCKS = "model.transformer.blocks"


def write_decoder(
    checkpoint: Checkpoint,
    directory: Path,
    recipe: Recipe,
    calibration: Calibration | None = None,
    *,
    head: np.ndarray,
    name: str = "decoder",
) -> GraphWriter:
    """Write `decoder.onnx`, or the same graph under another name and with that name's formats.

    Inputs: `embeddings` (1, T, width), `cos` and `sin` (1, T, head_dim / 2), `prompt_mask` (T0, T0)
    bool (True = may attend) for the first T0 rows, `span_mask` (S, P + T0 + W) bool for the other
    S = T - T0, which sees P + T0 prompt rows and W >= C + S span rows, `rows` (R,) int64 into T;
    per layer `past_keys.i`, `past_values.i` (1, P, kv_width), the prompt (P = 0 where T0 > 0), and
    `span_keys.i`, `span_values.i` (1, C, kv_width), the span so far. Outputs per layer `keys.i`,
    `values.i` (1, T, kv_width), normalised and rotated as attention uses them; `hidden`
    (1, R, width) after the final norm; `logits` (1, R, len(head)) of the tokens in `head`, which
    can be asked for, if there are any.
    """
    text = checkpoint.config.text
    graph = GraphWriter(name, directory, recipe, calibration)
    kv_width = text.kv_heads * text.head_dim
    x = graph.input("embeddings", FLOAT, [1, "T", text.width])
    graph.input("cos", FLOAT, [1, "T", text.head_dim // 2])
    graph.input("sin", FLOAT, [1, "T", text.head_dim // 2])
    graph.input("prompt_mask", BOOL, ["T0", "T0"])
    graph.input("span_mask", BOOL, ["S", "L"])
    rows = graph.input("rows", INT64, ["R"])
    for index in range(text.layers):
        for kind in ("keys", "values"):
            graph.input(f"past_{kind}.{index}", FLOAT, [1, "P", kv_width])
            graph.input(f"span_{kind}.{index}", FLOAT, [1, "C", kv_width])

    attention = Attention(graph, text.heads, text.kv_heads, text.head_dim)
    for index in range(text.layers - 1):
        layer = _Layer(graph, checkpoint, index, attention)
        q = layer.project(x)
        x = layer.finish(x, layer.attend(q))
    layer = _Layer(graph, checkpoint, text.layers - 1, attention)
    normed = layer.project_keys_values(x)
    outputs, empty = ["hidden"], {"else.hidden": np.zeros((1, 0, text.width), np.float32)}
    with graph.branch() as nodes:
        mixed = layer.attend(layer.project_queries(normed), rows)
        x = layer.finish(graph.op("Gather", x, rows, axis=1), mixed)
        final = checkpoint.tensor("model.transformer.ln_f.weight", (text.width,))
        graph.rms_norm(x, graph.weight("ln_f", final), text.norm_eps, out="then.hidden")
        if len(head):
            graph.linear("then.hidden", "head", _head(checkpoint, head), out="then.logits")
            empty["else.logits"] = np.zeros((1, 0, len(head)), np.float32)
            outputs.append("logits")
    with graph.branch() as no_nodes:
        for name, array in empty.items():
            graph.op("Identity", graph.constant(array, np.float32), out=name)
    some = graph.op("Greater", graph.op("Size", rows), graph.constant(0))
    then = [f"then.{name}" for name in outputs]
    graph.conditional(some, (nodes, then), (no_nodes, list(empty)), outputs)

    for index in range(text.layers):
        graph.output(f"keys.{index}", FLOAT, [1, "T", kv_width])
        graph.output(f"values.{index}", FLOAT, [1, "T", kv_width])
    graph.output("hidden", FLOAT, [1, "R", text.width])
    if len(head):
        graph.output("logits", FLOAT, [1, "R", len(head)])
    return graph


class _Layer:
    """One decoder layer, in pieces: the last one runs them on different rows."""

    def __init__(
        self, graph: GraphWriter, checkpoint: Checkpoint, index: int, attention: Attention
    ) -> None:
        self._graph, self._checkpoint, self._index = graph, checkpoint, index
        self._attention = attention
        self._text = checkpoint.config.text
        self._q_width = self._text.heads * self._text.head_dim
        self._kv_width = self._text.kv_heads * self._text.head_dim

    def project(self, x: str) -> str:
        """Write the new keys and values for x (1, T, width) and return the queries."""
        return self.project_queries(self.project_keys_values(x))

    def project_keys_values(self, x: str) -> str:
        """Write the new keys and values and return the normalised input, without queries."""
        normed = self._norm(x, "attn_norm")
        first, width = self._q_width, self._kv_width
        k = self._project(normed, "k", slice(first, first + width))
        self._rotate(k, "k_norm", "cos", "sin", out=f"keys.{self._index}")
        rows = slice(first + width, first + 2 * width)
        self._project(normed, "v", rows, out=f"values.{self._index}")
        return normed

    def project_queries(self, normed: str) -> str:
        """Return the queries of the normalised input."""
        q = self._project(normed, "q", slice(0, self._q_width))
        return self._rotate(q, "q_norm", "cos", "sin")

    def attend(self, q: str, rows: str | None = None) -> str:
        """Mix values by attention, of `rows` if given, and project back to the model's width."""
        graph, text = self._graph, self._text
        mixed = self._attention.attend(q, self._index, self._part("attention"))
        if rows is not None:
            mixed = graph.op("Gather", mixed, rows, axis=1)
        matrix = self._tensor("self_attn.attn_out.weight", (text.width, self._q_width))
        return graph.linear(mixed, self._part("attn_out"), matrix)

    def finish(self, x: str, mixed: str) -> str:
        """Add the attention output, then the MLP's: the layer's hidden states."""
        graph, text = self._graph, self._text
        x = graph.op("Add", x, mixed)
        normed = self._norm(x, "ff_norm")
        up, row_size = graph.linear_of_unit_rows(
            normed, self._part("ff_up"), self._ff_proj(slice(0, text.mlp_width))
        )
        rows = slice(text.mlp_width, 2 * text.mlp_width)
        gate = graph.linear(normed, self._part("ff_gate"), self._ff_proj(rows))
        hidden = graph.op("Mul", graph.silu(gate), up)
        matrix = self._tensor("mlp.ff_out.weight", (text.width, text.mlp_width))
        down = graph.linear(hidden, self._part("ff_out"), matrix, row_size=row_size)
        return graph.op("Add", x, down, out=self._part("hidden"))

    def _project(self, normed: str, name: str, rows: slice, out: str | None = None) -> str:
        text = self._text
        outputs = self._q_width + 2 * self._kv_width
        source = f"{_BLOCKS}.{self._index}.self_attn.att_proj"
        matrix = self._checkpoint.tensor(f"{source}.weight", (outputs, text.width), rows)
        bias = None
        if text.qkv_bias:
            bias = self._checkpoint.tensor(f"{source}.bias", (outputs,), rows)
        return self._graph.linear(normed, self._part(name), matrix, bias, out)

    def _rotate(self, x: str, norm: str, cos: str, sin: str, out: str | None = None) -> str:
        graph, text = self._graph, self._text
        heads = text.heads if norm == "q_norm" else text.kv_heads
        if text.qk_norm:
            scale = self._tensor(f"self_attn.{norm}.weight", (text.head_dim,))
            part = self._part(norm)
            x = graph.head_norm(x, heads, text.head_dim, scale, text.norm_eps, part)
        return graph.op("RotaryEmbedding", x, cos, sin, out=out, num_heads=heads)

    def _norm(self, x: str, name: str) -> str:
        values = self._tensor(f"{name}.weight", (self._text.width,))
        scale = self._graph.weight(self._part(name), values)
        normed = self._graph.rms_norm(x, scale, self._text.norm_eps)
        return self._graph.expect(normed, np.square(values))

    def _ff_proj(self, rows: slice) -> np.ndarray:
        shape = (2 * self._text.mlp_width, self._text.width)
        name = f"{_BLOCKS}.{self._index}.mlp.ff_proj.weight"
        return self._checkpoint.tensor(name, shape, rows)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._checkpoint.tensor(f"{_BLOCKS}.{self._index}.{name}", shape)

    def _part(self, name: str) -> str:
        return f"blocks.{self._index}.{name}"


def _head(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    """The output head's rows of some tokens, read in runs that follow each other."""
    text = checkpoint.config.text
    if tokens.max() >= text.vocab:
        raise BuildError(
            f"{checkpoint.path}: token {tokens.max()} can be asked for, but the head has "
            f"{text.vocab} rows; the tokenizer is of another model"
        )
    name = "model.transformer.wte.embedding" if text.tied_head else "lm_head.weight"
    runs = np.split(tokens, np.flatnonzero(np.diff(tokens) != 1) + 1)
    rows = [slice(int(run[0]), int(run[-1]) + 1) for run in runs]
    return np.concatenate([checkpoint.tensor(name, (text.vocab, text.width), x) for x in rows])
