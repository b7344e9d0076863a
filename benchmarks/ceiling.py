"""What this machine can do at best: memory read bandwidth, and matrix peaks in FP32 and INT8.

Every latency is read against these. They are measured, not looked up, in several ways each, and the
best counts: a ceiling must not be beaten. The ways take turns, because what a machine gives changes
while others use it. Reads go over arrays much larger than a cache; products are of shapes that the
model has, through the kernels that bundles use.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    import onnx

READ, FP32, INT8 = "read", "fp32", "int8"
_UNITS = {READ: "GB/s", FP32: "GFLOP/s", INT8: "GOP/s"}

_SPINNING = "session.intra_op.allow_spinning"
_OPSET, _IR_VERSION, _MICROSOFT = 21, 10, "com.microsoft"
_READ_BYTES = 1 << 29  # sixteen times a last-level cache of 32 MiB
_READ_WIDTH = 8192  # of the matrices that one row is multiplied by
_INT4_SHARE, _INT4_BLOCK, _INT8_ACTIVATIONS = 2, 128, 4  # half the bytes: packing needs both copies
_SHAPES = ((2048, 2048, 2048), (512, 4096, 4096), (512, 2560, 9728))  # rows, inputs, outputs
_READ_S, _PRODUCT_S, _FEWEST_ROUNDS = 3.0, 3.0, 3


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Measured limits of one machine, and what each way of measuring them gave."""

    threads: int
    read_gb_s: float
    fp32_gflop_s: float
    int8_gop_s: float
    ways: dict[str, dict[str, float]] = field(default_factory=dict)  # READ, FP32, INT8: by name


class MemoryReader:
    """Reads an array that no cache holds, in equal parts on every thread; a context manager."""

    def __init__(self, threads: int) -> None:
        self._parts = np.array_split(np.ones(_READ_BYTES // 8, np.int64), threads)
        self._pool = ThreadPoolExecutor(threads)
        self._memchr = ctypes.CDLL(None).memchr
        self._memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        self._memchr.restype = None

    def __enter__(self) -> MemoryReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def search(self) -> None:
        """Search every byte for one that is not there."""
        list(self._pool.map(lambda p: self._memchr(p.ctypes.data, 2, p.nbytes), self._parts))

    def combine(self) -> None:
        """OR all integers."""
        list(self._pool.map(np.bitwise_or.reduce, self._parts))

    def gb_s(self) -> float:
        """Read once; gigabytes a second."""
        started = time.perf_counter()
        self.search()
        return _READ_BYTES / (time.perf_counter() - started) / 1e9


def measure_ceiling(threads: int | None = None) -> Ceiling:
    """Measure with `threads` threads, by default one per usable core.

    Takes about 12 seconds and 2 GB of memory.
    """
    threads = threads or usable_cores()
    ways = {READ: _reads_gb_s(threads), **_products_giga_s(threads)}
    return _ceiling(threads, ways)


def higher(one: Ceiling, other: Ceiling) -> Ceiling:
    """Combine two measurements of one machine, the better of each way; the ways must be equal."""
    ways = {
        limit: {way: max(rate, other.ways[limit][way]) for way, rate in rates.items()}
        for limit, rates in one.ways.items()
    }
    return Ceiling(
        threads=one.threads,
        read_gb_s=max(one.read_gb_s, other.read_gb_s),
        fp32_gflop_s=max(one.fp32_gflop_s, other.fp32_gflop_s),
        int8_gop_s=max(one.int8_gop_s, other.int8_gop_s),
        ways=ways,
    )


def print_ceiling(ceiling: Ceiling) -> None:
    """Print every way of measuring, the best of each limit first."""
    for limit, rates in ceiling.ways.items():
        print(f"\n{limit.upper() if limit != READ else 'memory reads'}, {_UNITS[limit]}")
        for way, rate in sorted(rates.items(), key=lambda item: -item[1]):
            print(f"  {way:<42}{rate:>10.1f}")


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ceiling(threads: int, ways: dict[str, dict[str, float]]) -> Ceiling:
    best = {limit: max(rates.values()) for limit, rates in ways.items()}
    return Ceiling(threads, best[READ], best[FP32], best[INT8], ways)


def _reads_gb_s(threads: int) -> dict[str, float]:
    """Read arrays that no cache holds, by pure reads and by one row times a matrix."""
    outputs = _READ_BYTES // 4 // _READ_WIDTH
    wide, wide_bytes = _row_times_fp32(outputs, threads)
    narrow, narrow_bytes = _row_times_int4(outputs * 8 // _INT4_SHARE, threads)
    with MemoryReader(threads) as reader:
        seconds = _best_s(
            {
                "search for an absent byte": reader.search,
                "OR of 64-bit integers": reader.combine,
                "one row x FP32 matrix": wide,
                "one row x INT4 matrix": narrow,
            },
            _READ_S,
        )
    sizes = (_READ_BYTES, _READ_BYTES, wide_bytes, narrow_bytes)
    return {way: size / seconds[way] / 1e9 for way, size in zip(seconds, sizes, strict=True)}


def _products_giga_s(threads: int) -> dict[str, dict[str, float]]:
    """Multiply large matrices in FP32 and in INT8."""
    runs, limits, operations = {}, {}, {}
    for rows, inputs, outputs in _SHAPES:
        for limit, make in (
            (FP32, _fp32_product),
            (INT8, _quantizing_product),
            (INT8, _integer_product),
        ):
            kind, run = make(rows, inputs, outputs, threads)
            way = f"{kind} {rows} x {inputs} x {outputs}"
            runs[way], limits[way], operations[way] = run, limit, 2 * rows * inputs * outputs
    found: dict[str, dict[str, float]] = {FP32: {}, INT8: {}}
    for way, seconds in _best_s(runs, _PRODUCT_S).items():
        found[limits[way]][way] = operations[way] / seconds / 1e9
    return found


def _row_times_fp32(outputs: int, threads: int) -> tuple[Callable[[], None], int]:
    _, run = _fp32_product(1, _READ_WIDTH, outputs, threads)
    return run, outputs * _READ_WIDTH * 4


def _row_times_int4(outputs: int, threads: int) -> tuple[Callable[[], None], int]:
    """Return the run and the bytes it reads, scales included."""
    blocks = _READ_WIDTH // _INT4_BLOCK
    weights = {
        "codes": ((outputs, blocks, _INT4_BLOCK // 2), np.uint8),
        "scale": ((outputs, blocks), np.float32),
    }
    row = np.ones((1, _READ_WIDTH), np.float32)
    run = _run(
        "MatMulNBits",
        row,
        weights,
        np.empty((1, outputs), np.float32),
        threads,
        domain=_MICROSOFT,
        K=_READ_WIDTH,
        N=outputs,
        bits=4,
        block_size=_INT4_BLOCK,
        accuracy_level=_INT8_ACTIVATIONS,
    )
    return run, outputs * blocks * (_INT4_BLOCK // 2 + 4)


def _fp32_product(
    rows: int, inputs: int, outputs: int, threads: int
) -> tuple[str, Callable[[], None]]:
    values = _values(rows, inputs)
    weights = {"matrix": ((inputs, outputs), np.float32)}
    return "MatMul", _run("MatMul", values, weights, np.empty((rows, outputs), np.float32), threads)


def _quantizing_product(
    rows: int, inputs: int, outputs: int, threads: int
) -> tuple[str, Callable[[], None]]:
    kind = "DynamicQuantizeMatMul"
    weights = {"matrix": ((inputs, outputs), np.int8), "scale": ((outputs,), np.float32)}
    result = np.empty((rows, outputs), np.float32)
    return kind, _run(kind, _values(rows, inputs), weights, result, threads, domain=_MICROSOFT)


def _integer_product(
    rows: int, inputs: int, outputs: int, threads: int
) -> tuple[str, Callable[[], None]]:
    values = (_values(rows, inputs) * 20 + 128).astype(np.uint8)
    weights = {"matrix": ((inputs, outputs), np.int8)}
    result = np.empty((rows, outputs), np.int32)
    return "MatMulInteger", _run("MatMulInteger", values, weights, result, threads)


def _values(rows: int, inputs: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, inputs), np.float32)


def _run(
    kind: str,
    values: np.ndarray,
    weights: dict[str, tuple[tuple[int, ...], type]],
    result: np.ndarray,
    threads: int,
    **attributes: object,
) -> Callable[[], None]:
    """Return a call of one operator on `values` and weights that the engine makes and packs.

    The weights are all ones, which no kernel is faster for; folding makes them when the graph is
    loaded, so that nothing large is written or copied.
    """
    from onnx import helper, numpy_helper  # only a measurement needs it, which robots do not make

    shapes = [
        numpy_helper.from_array(np.array(shape, np.int64), f"{name}.shape")
        for name, (shape, _) in weights.items()
    ]
    nodes = [
        helper.make_node(
            "ConstantOfShape",
            [f"{name}.shape"],
            [name],
            value=numpy_helper.from_array(np.ones(1, dtype)),
        )
        for name, (_, dtype) in weights.items()
    ]
    nodes.append(helper.make_node(kind, ["x", *weights], ["y"], **attributes))
    graph = helper.make_graph(
        nodes, kind, [_declared("x", values)], [_declared("y", result)], shapes
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # it would keep what was needed while packing
    options.add_session_config_entry(_SPINNING, "0")  # the next way needs the cores
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("x", values)
    binding.bind_output("y", "cpu", 0, result.dtype.type, result.shape, result.ctypes.data)

    def run(kept: tuple[np.ndarray, np.ndarray] = (values, result)) -> None:
        session.run_with_iobinding(binding)

    return run


def _declared(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)


def _best_s(runs: dict[str, Callable[[], object]], budget_s: float) -> dict[str, float]:
    """Give each run its turn until the time is over; the shortest time of each."""
    for run in runs.values():
        run()  # warm-up: pages, threads, packed weights
    best = dict.fromkeys(runs, float("inf"))
    end_s, rounds = time.perf_counter() + budget_s, 0
    while rounds < _FEWEST_ROUNDS or time.perf_counter() < end_s:
        for way, run in runs.items():
            started = time.perf_counter()
            run()
            best[way] = min(best[way], time.perf_counter() - started)
        rounds += 1
    return best
