"""How fast a machine reads and multiplies: what it could at best, and the share that is expected.

What it could is measured here (`benchmarks.ceiling`) or stated by a board file; the shares say how
much of that a stage reached where it was measured. Each has its kind and its source, as figures of
board files do. The engine of this version runs on the processor; a GPU's limits say what one that
used it could do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.ceiling import Ceiling
from benchmarks.workload import ATTENTION, EXPERT, Pass
from edge.hardware import DERIVED, KINDS, MEASURED, UNVERIFIED, Figure, PowerMode

CPU, GPU = UNITS = ("cpu", "gpu")
_FP32, _INT8, _BLOCKS = "fp32", "int8", "blocks"

_HERE = "two x86 cores, random weights of real size (docs/performance.md)"
_PEERS = "peers' figures on Jetsons suggest 0.4 to 0.6; not measured with this model"
# Of a processor's measured ceiling.
INT8_SHARE = Figure(0.84, MEASURED, f"matrix products of the int8 prompt, {_HERE}")
BLOCK_SHARE = Figure(0.42, MEASURED, f"MatMulNBits, half of the INT8 kernel, {_HERE}")
FLOAT_SHARE = Figure(0.67, MEASURED, f"attention, two thirds of the FP32 peak, {_HERE}")
FLOW_SHARE = Figure(0.19, DERIVED, f"30 rows a flow step, from 0.80 s of the expert, {_HERE}")
INT4_READ_SHARE = Figure(0.70, MEASURED, f"decoding one token in int4, {_HERE}")
READ_SHARE = Figure(0.90, MEASURED, f"decoding one token in int8, {_HERE}")
MATRIX_S = Figure(
    19e-6,
    DERIVED,
    "a matrix with the operations around it, of any size: 7.2 ms of the nano model's flow steps "
    "(docs/runtime.md) less their products; taken for every machine",
)
# Of a processor's stated limits, what a ceiling measured there would be.
BOARD_READ_SHARE = Figure(
    0.67, UNVERIFIED, "11.4 of 17.1 GB/s on a Raspberry Pi 5, second hand; assumed for all boards"
)
BOARD_PEAK_SHARE = Figure(0.67, UNVERIFIED, "assumed as for reads; nothing was found")
# Of a GPU's stated limits.
GPU_SHARE = Figure(0.5, UNVERIFIED, _PEERS)
GPU_READ_SHARE = Figure(0.6, UNVERIFIED, f"assumed; {_PEERS}")


@dataclass(frozen=True, slots=True)
class Limits:
    """One unit of a machine; rates are those a stage is expected to reach."""

    unit: str
    kind: str  # of the least sure figure of the machine; the shares have their own
    read_gb_s: dict[str, float]  # by family of formats
    giga_ops_s: dict[str, float]
    flow_giga_ops_s: float | None  # of the flow steps' few rows; None: as elsewhere
    shares: tuple[Figure, ...]

    def seconds(self, stage: str, passes: Iterable[Pass]) -> float:
        """Return what passes of a stage take: reads or products, the longer, and a fixed part."""
        return sum(
            one.times
            * (max(self._reads(one), self._products(stage, one)) + one.matrices * MATRIX_S.value)
            for one in passes
        )

    def _reads(self, one: Pass) -> float:
        return (
            sum(size / self.read_gb_s[_family(form)] for form, size in one.read_bytes.items()) / 1e9
        )

    def _products(self, stage: str, one: Pass) -> float:
        total = 0.0
        for form, count in one.operations.items():
            rate = self.giga_ops_s[_family(form)]
            if stage == EXPERT and form != ATTENTION and self.flow_giga_ops_s is not None:
                rate = min(rate, self.flow_giga_ops_s)
            total += count / rate / 1e9
        return total


def limits_of_ceiling(ceiling: Ceiling) -> Limits:
    """Return what this machine's processor is expected to reach."""
    return _processor(ceiling.read_gb_s, ceiling.int8_gop_s, ceiling.fp32_gflop_s, MEASURED, ())


def limits_of_mode(mode: PowerMode, unit: str) -> Limits | str:
    """Return the limits of a board's processor or GPU, or a text that says what is not known."""
    return _gpu(mode) if unit == GPU else _board_processor(mode)


def _board_processor(mode: PowerMode) -> Limits | str:
    figures = {
        "bandwidth_gb_s": mode.bandwidth_gb_s,
        "cpu_int8_gops": mode.cpu_int8_gops,
        "cpu_fp32_gflops": mode.cpu_fp32_gflops,
    }
    missing = _missing(figures)
    if missing:
        return missing
    read, int8, fp32 = (figure.value for figure in figures.values())
    return _processor(
        read * BOARD_READ_SHARE.value,
        int8 * BOARD_PEAK_SHARE.value,
        fp32 * BOARD_PEAK_SHARE.value,
        _least_sure(figures.values()),
        (BOARD_READ_SHARE, BOARD_PEAK_SHARE),
    )


def _processor(
    read_gb_s: float, int8_gops: float, fp32_gflops: float, kind: str, more: tuple[Figure, ...]
) -> Limits:
    return Limits(
        unit=CPU,
        kind=kind,
        read_gb_s={
            _FP32: read_gb_s * READ_SHARE.value,
            _INT8: read_gb_s * READ_SHARE.value,
            _BLOCKS: read_gb_s * INT4_READ_SHARE.value,
            ATTENTION: read_gb_s * READ_SHARE.value,
        },
        giga_ops_s={
            _FP32: fp32_gflops * INT8_SHARE.value,
            _INT8: int8_gops * INT8_SHARE.value,
            _BLOCKS: int8_gops * BLOCK_SHARE.value,
            ATTENTION: fp32_gflops * FLOAT_SHARE.value,
        },
        flow_giga_ops_s=int8_gops * FLOW_SHARE.value,
        shares=(
            *more,
            *(INT8_SHARE, BLOCK_SHARE, FLOAT_SHARE, FLOW_SHARE, INT4_READ_SHARE, READ_SHARE),
        ),
    )


def _gpu(mode: PowerMode) -> Limits | str:
    """Weights in 4 bits are multiplied as 16-bit floats, full precision by the CUDA cores."""
    figures = {
        "bandwidth_gb_s": mode.bandwidth_gb_s,
        "int8_tops": mode.int8_tops,
        "fp16_tflops": mode.fp16_tflops,
        "fp32_gflops": mode.fp32_gflops,
    }
    if mode.sms.value == 0:
        return "it has no GPU that counts"
    missing = _missing(figures)
    if missing:
        return missing
    read, int8, fp16, fp32 = (figure.value for figure in figures.values())
    read *= GPU_READ_SHARE.value
    return Limits(
        unit=GPU,
        kind=_least_sure(figures.values()),
        read_gb_s=dict.fromkeys((_FP32, _INT8, _BLOCKS, ATTENTION), read),
        giga_ops_s={
            _FP32: fp32 * GPU_SHARE.value,
            _INT8: int8 * 1e3 * GPU_SHARE.value,
            _BLOCKS: fp16 * 1e3 * GPU_SHARE.value,
            ATTENTION: fp16 * 1e3 * GPU_SHARE.value,
        },
        flow_giga_ops_s=None,
        shares=(GPU_SHARE, GPU_READ_SHARE),
    )


def _family(form: str) -> str:
    if form in (_FP32, ATTENTION):
        return form
    return _INT8 if form in ("int8", "int8-static") else _BLOCKS


def _missing(figures: dict[str, Figure]) -> str:
    names = [name for name, figure in figures.items() if not figure.value]  # 0 tells no speed
    return f"not known: {', '.join(names)}" if names else ""


def _least_sure(figures: Iterable[Figure]) -> str:
    return max((figure.kind for figure in figures), key=KINDS.index)
