"""Decoding one token after a prompt, next to what memory gives at that very moment.

A token reads the decoder's weights once and does little else, so memory bandwidth is its limit. On
a shared host that changes from one second to the next: passes and plain reads take turns.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.ceiling import MemoryReader
from edge.bundle import DECODER
from edge.policy import Policy

_UNCOUNTED_PASSES = 3
_READ_TURNS = 30


@dataclass(frozen=True, slots=True)
class OneToken:
    """Medians over turns of one pass and one read; `share` is of each pass's neighbour."""

    pass_ms: float
    weights_bytes: int  # of the decoder, scales included
    weights_gb_s: float
    read_gb_s: float
    share: float


def one_token_s(policy: Policy, prompt_tokens: int, passes: int) -> list[float]:
    """Decode one token after the last call's prompt `passes` times, cutting the cache back."""
    decoder = policy._decoder
    token, row = np.array([policy.bundle.manifest.tokens.depth_first]), np.zeros(1, np.int64)
    times = []
    for _ in range(_UNCOUNTED_PASSES + passes):
        decoder.truncate(prompt_tokens)
        started = time.perf_counter()
        decoder.extend(token, row)
        times.append(time.perf_counter() - started)
    return times[_UNCOUNTED_PASSES:]


def measure_one_token(policy: Policy, prompt_tokens: int, threads: int) -> OneToken:
    """Measure after a call without depth, whose prompt is still in the cache."""
    layers = policy.bundle.manifest.recipe.layers.values()
    graph = DECODER.removesuffix(".onnx")
    weights_bytes = sum(layer.size_bytes for layer in layers if layer.graph == graph)
    passes_s, reads_gb_s = [], []
    with MemoryReader(threads) as reader:
        for _ in range(_READ_TURNS):
            passes_s.append(statistics.median(one_token_s(policy, prompt_tokens, passes=3)))
            reads_gb_s.append(max(reader.gb_s() for _ in range(3)))
    rates = [weights_bytes / seconds / 1e9 for seconds in passes_s]
    return OneToken(
        pass_ms=1e3 * statistics.median(passes_s),
        weights_bytes=weights_bytes,
        weights_gb_s=statistics.median(rates),
        read_gb_s=statistics.median(reads_gb_s),
        share=statistics.median(np.divide(rates, reads_gb_s).tolist()),
    )
