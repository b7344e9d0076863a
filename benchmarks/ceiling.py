"""What this machine can do at best: memory read bandwidth, and matrix peaks in FP32 and INT8.

Every latency is read against these. They are measured, not looked up: reads by dot products over
arrays far larger than any cache, peaks by one large square product through the kernels that the
bundles use.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from quantization.formats import FP32, INT8, Format
from quantization.graph import FLOAT, GraphWriter

_READ_BYTES = 1 << 30
_SIDE = 2048
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Measured limits of one machine; the best of a few tries each."""

    threads: int
    read_gb_s: float
    fp32_gflop_s: float
    int8_gop_s: float


def measure_ceiling(threads: int | None = None) -> Ceiling:
    """Measure with `threads` threads, by default one per usable core; takes a few seconds."""
    threads = threads or len(os.sched_getaffinity(0))
    operations = 2 * _SIDE**3
    return Ceiling(
        threads=threads,
        read_gb_s=_read_bytes_s(threads) / 1e9,
        fp32_gflop_s=operations / _product_s(FP32, threads) / 1e9,
        int8_gop_s=operations / _product_s(INT8, threads) / 1e9,
    )


def _read_bytes_s(threads: int) -> float:
    part = np.ones(_READ_BYTES // 4 // threads, np.float32)
    parts = [part.copy() for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda values: np.dot(values, values), parts)))
    return sum(values.nbytes for values in parts) / seconds


def _product_s(form: Format, threads: int) -> float:
    """Time one (side x side) by (side x side) product as a bundle would run it."""
    random = np.random.default_rng(0)
    matrix = random.standard_normal((_SIDE, _SIDE), np.float32)
    values = random.standard_normal((1, _SIDE, _SIDE), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        writer = GraphWriter("product", Path(folder), lambda _path, _shape: form)
        x = writer.input("x", FLOAT, [1, _SIDE, _SIDE])
        writer.linear(x, "matrix", matrix, out="y")
        writer.output("y", FLOAT, [1, _SIDE, _SIDE])
        graph, _ = writer.save()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
    return _best(lambda: session.run(["y"], {"x": values}))


def _best(run: Callable[[], object]) -> float:
    run()  # warm-up: pages, threads, packed weights
    times = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
