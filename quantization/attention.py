"""Attention over a cache that nobody copies, in sums that never change their order.

A pass carries prompt rows, which see each other alone, and span rows, which see the whole prompt
and the span so far. For span rows prompt and span are multiplied apart and only their scores are
joined: joining keys and values would copy the whole cache in every layer of every pass. The cache
stays token-major, (rows, key/value heads * head_dim), so that a shorter view of it is contiguous.

The boundary is always that of the prompt, never that of a pass, and the span's part is filled up
with zeros to a width that stays: a row's sums are the same, to the last bit, in whichever pass it
comes. Without that the rounding of 8-bit activations, which lets no small difference pass
unnoticed, would make the codes depend on the draft.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantization.graph import MICROSOFT, GraphWriter


@dataclass(frozen=True, slots=True)
class _Counts:
    """Sizes of one pass, each the name of a (1,) int64."""

    prompt: str  # prompt rows of this pass
    new: str  # span rows of this pass
    filling: str  # rows of zeros behind the span
    lengths: str  # (2,) prompt rows in all, width of the span


class Attention:
    """The attention of one decoder graph; several query heads may share keys and values."""

    def __init__(self, graph: GraphWriter, heads: int, kv_heads: int, head_dim: int) -> None:
        self._graph = graph
        self._heads, self._kv_heads, self._head_dim = heads, kv_heads, head_dim
        size = self._size
        prompt, past = size("prompt_mask", 0), size("past_keys.0", 1)
        new, cached = size("span_mask", 0), size("span_keys.0", 1)
        whole = graph.op("Add", prompt, past)
        width = graph.op("Sub", size("span_mask", 1), whole)
        filling = graph.op("Sub", width, graph.op("Add", cached, new))
        lengths = graph.op("Concat", whole, width, axis=0)
        self._counts = _Counts(prompt, new, filling, lengths)
        zero = graph.constant([0])
        self._has_prompt = graph.op("Greater", prompt, zero)
        self._has_span = graph.op("Greater", new, zero)
        one, row = graph.constant([1]), np.zeros((1, 1, kv_heads * head_dim))
        shape = graph.op("Concat", one, filling, one, axis=0)
        self._zeros = graph.op("Expand", graph.constant(row, np.float32), shape)
        self._bias = self._span_bias()

    def attend(self, q: str, layer: int, out: str) -> str:
        """Attend from q (1, T, heads * head_dim), prompt rows first; the result is of q's shape."""
        graph = self._graph
        sources = [f"{kind}.{layer}" for kind in ("keys", "values")]
        past = [f"past_{name}" for name in sources]
        with graph.branch() as cached:
            later = self._span(q, past, sources, layer)
        with graph.branch() as mixed:
            first = [self._head(x) for x in (q, *sources)]
            rest = [self._tail(x) for x in (q, *sources)]
            # Said once more, because shape inference takes the width of sliced values for 0.
            shape = graph.constant([1, -1, self._heads * self._head_dim])
            parts = [graph.op("Reshape", self._prompt(*first), shape)]
            parts.append(self._span(rest[0], first[1:], rest[1:], layer))
            joined = graph.op("Concat", *parts, axis=1)
        with graph.branch() as alone:
            only = self._prompt(q, *sources)
        with graph.branch() as fresh:
            choices = (mixed, [joined]), (alone, [only])
            graph.conditional(self._has_span, *choices, [f"{out}.fresh"])
        branches = (fresh, [f"{out}.fresh"]), (cached, [later])
        graph.conditional(self._has_prompt, *branches, [out])
        return out

    def _prompt(self, q: str, keys: str, values: str) -> str:
        heads = {"q_num_heads": self._heads, "kv_num_heads": self._kv_heads}
        return self._graph.op("Attention", q, keys, values, "prompt_mask", **heads)

    def _span(self, q: str, prompt: list[str], new: list[str], layer: int) -> str:
        """Attend from span rows to (keys, values) of the prompt, the cached span and new rows."""
        graph, heads, dim = self._graph, self._kv_heads, self._head_dim
        cached = [f"span_{kind}.{layer}" for kind in ("keys", "values")]
        span = [
            graph.op("Concat", *rows, self._zeros, axis=1) for rows in zip(cached, new, strict=True)
        ]
        split = [-1, heads, self._heads // heads, dim]
        q = graph.op("Transpose", graph.op("Reshape", q, graph.constant(split)), perm=[1, 0, 2, 3])
        q = graph.op("Reshape", q, graph.constant([heads, -1, dim]))
        scale = float(dim**-0.5)
        scores = [self._product(q, x[0], transB=1, alpha=scale) for x in (prompt, span)]
        biased = graph.op("Add", graph.op("Concat", *scores, axis=-1), self._bias)
        weights = graph.op("Softmax", biased, axis=-1)
        weights = graph.ops("Split", weights, self._counts.lengths, out=2, axis=-1)
        sources = prompt[1], span[1]
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

    def _span_bias(self) -> str:
        """Turn span_mask (S, L) into (S * queries a key head, L) float: 0, or minus infinity."""
        graph, group = self._graph, self._heads // self._kv_heads
        allowed, refused = (graph.constant(x, np.float32) for x in (0.0, -np.inf))
        bias = graph.op("Where", "span_mask", allowed, refused)
        bias = graph.op("Unsqueeze", bias, graph.constant([1]))
        bias = graph.op("Expand", bias, graph.constant([1, group, 1]))
        rows = graph.op("Mul", self._counts.new, graph.constant([group]))
        shape = graph.op("Concat", rows, self._size("span_mask", 1), axis=0)
        return graph.op("Reshape", bias, shape, allowzero=1)

    def _head(self, x: str) -> str:
        """Take the prompt rows of (1, T, .)."""
        return self._slice(x, self._graph.constant([0]), self._counts.prompt)

    def _tail(self, x: str) -> str:
        """Take the span rows of (1, T, .)."""
        return self._slice(x, self._counts.prompt, self._graph.constant([np.iinfo(np.int64).max]))

    def _slice(self, x: str, first: str, stop: str) -> str:
        return self._graph.op("Slice", x, first, stop, self._graph.constant([1]))

    def _size(self, name: str, axis: int) -> str:
        return self._graph.op("Shape", name, start=axis, end=axis + 1)
