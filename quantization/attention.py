"""Attention over a cache that nobody copies.

Without a past (prefill) one `Attention` node does everything. With one, joining past and new rows
would copy the whole cache in every layer of every pass: instead past and new keys are multiplied
apart, only their scores are joined, and past and new values are multiplied apart again. The cache
stays token-major, (rows, key/value heads * head_dim), so that a shorter view of it is contiguous.
"""

from __future__ import annotations

import numpy as np

from quantization.graph import MICROSOFT, GraphWriter


class Attention:
    """The attention of one decoder graph; several query heads may share keys and values."""

    def __init__(self, graph: GraphWriter, heads: int, kv_heads: int, head_dim: int) -> None:
        self._graph = graph
        self._heads, self._kv_heads, self._head_dim = heads, kv_heads, head_dim
        past = graph.op("Shape", "past_keys.0", start=1, end=2)
        self._has_past = graph.op("Greater", past, graph.constant([0]))
        new = graph.op("Shape", "embeddings", start=1, end=2)
        self._lengths = graph.op("Concat", past, new, axis=0)

    def bias(self, mask: str) -> str:
        """Turn a mask (T, L) bool into (T * queries a key head, L) float: 0, or minus infinity."""
        graph, group = self._graph, self._heads // self._kv_heads
        allowed, refused = (graph.constant(x, np.float32) for x in (0.0, -np.inf))
        bias = graph.op("Unsqueeze", graph.op("Where", mask, allowed, refused), graph.constant([1]))
        bias = graph.op("Expand", bias, graph.constant([1, group, 1]))
        length = graph.op("Shape", mask, start=1, end=2)
        shape = graph.op("Concat", graph.constant([-1]), length, axis=0)
        return graph.op("Reshape", bias, shape)

    def attend(self, q: str, layer: int, mask: str, bias: str) -> str:
        """Attend from q (1, T, heads * head_dim) to past and new rows; the result is of q's shape.

        `mask` (T, past + new) bool is true where a row may attend, `bias` is made from it.
        """
        graph, out = self._graph, f"blocks.{layer}.attention"
        with graph.branch() as joined:
            both = self._with_past(q, layer, bias)
        with graph.branch() as plain:
            heads = {"q_num_heads": self._heads, "kv_num_heads": self._kv_heads}
            alone = graph.op("Attention", q, f"keys.{layer}", f"values.{layer}", mask, **heads)
        graph.conditional(self._has_past, (joined, [both]), (plain, [alone]), [out])
        return out

    def _with_past(self, q: str, layer: int, bias: str) -> str:
        graph, heads, dim = self._graph, self._kv_heads, self._head_dim
        split = [-1, heads, self._heads // heads, dim]
        q = graph.op("Transpose", graph.op("Reshape", q, graph.constant(split)), perm=[1, 0, 2, 3])
        q = graph.op("Reshape", q, graph.constant([heads, -1, dim]))
        sources = [f"past_keys.{layer}", f"keys.{layer}"]
        scale = float(dim**-0.5)
        scores = [self._product(q, keys, transB=1, alpha=scale) for keys in sources]
        joined = graph.op("Add", graph.op("Concat", *scores, axis=-1), bias)
        weights = graph.ops(
            "Split", graph.op("Softmax", joined, axis=-1), self._lengths, out=2, axis=-1
        )
        sources = [f"past_values.{layer}", f"values.{layer}"]
        parts = [self._product(w, values) for w, values in zip(weights, sources, strict=True)]
        mixed = graph.op("Add", *parts)
        mixed = graph.op("Reshape", mixed, graph.constant([heads, -1, *split[2:]]))
        mixed = graph.op("Transpose", mixed, perm=[1, 0, 2, 3])
        return graph.op("Reshape", mixed, graph.constant([1, -1, self._heads * dim]))

    def _product(self, x: str, rows: str, **attributes: float) -> str:
        """Multiply (kv_heads, n, .) by each head of token-major rows, read where they lie."""
        graph = self._graph
        split = graph.op("Reshape", rows, graph.constant([-1, self._kv_heads, self._head_dim]))
        return graph.op("FusedMatMul", x, split, domain=MICROSOFT, transBatchB=1, **attributes)
