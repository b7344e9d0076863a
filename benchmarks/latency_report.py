"""What a latency measurement found, and how it is printed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from benchmarks.ceiling import Ceiling
from benchmarks.one_token import OneToken

_COLUMNS = ("min", "p50", "p95", "p99", "max", "floor", "floor/p50")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of each cost driver."""

    cameras: int
    changed_percent: int | None  # share of depth cells whose picture changes; None: no depth
    horizon: int  # actions a call predicts


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds of one stage over the counted calls; None where calls are too few to say."""

    min: float
    p50: float
    p95: float | None
    p99: float | None
    max: float


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one setting."""

    cameras: int
    changed_percent: int | None
    horizon: int
    calls: int
    note: str  # what a reader must know of this row; often empty
    prompt_tokens: int
    depth_passes_mean: float
    changed_cells_mean: float
    moved_cells_mean: float
    stages_ms: dict[str, StageTimes]
    call_ms: StageTimes
    floors_ms: dict[str, float]  # see `benchmarks.floors`


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Everything `print_latency` prints, and the JSON line."""

    bench: str  # always "latency"
    machine: str
    bundle: str
    recipe: str
    source_sha256: str
    profile: str | None
    repeats: int
    seconds_per_row: float | None
    warm_up_calls: int
    load_s: float
    first_call_s: float
    ceiling: Ceiling
    one_token: OneToken | None  # None for checkpoints without depth codes
    base: Setting  # from which one driver at a time is varied
    rows: list[Row]


def print_latency(report: LatencyReport) -> None:
    """Print card, ceiling, tables and, last, one JSON line."""
    limit = report.ceiling
    print(f"measured on {report.machine}")
    print(f"bundle {report.bundle} ({report.recipe}), profile {report.profile or 'none'}")
    print(
        f"{report.repeats} calls a row after {report.warm_up_calls} warm-up calls; loading took "
        f"{report.load_s:.2f} s, the first call {report.first_call_s:.2f} s"
    )
    print(
        f"\nceiling: reads {limit.read_gb_s:.1f} GB/s, FP32 {limit.fp32_gflop_s:.0f} GFLOP/s, "
        f"INT8 {limit.int8_gop_s:.0f} GOP/s with {limit.threads} threads"
    )
    print("floor: what a stage's weights, read once a pass, or its products take at this ceiling")
    if token := report.one_token:
        print(
            f"one token after the prompt: {token.pass_ms:.1f} ms, {token.weights_gb_s:.1f} GB/s of "
            f"weights; plain reads in between {token.read_gb_s:.1f} GB/s: {token.share:.0%} of them"
        )
    for row in report.rows:
        _print_row(row)
    print(json.dumps(asdict(report)))


def _print_row(row: Row) -> None:
    share = row.changed_percent
    depth = "no depth" if share is None else f"{share} % of the cells changed"
    print(f"\n{row.cameras} camera{'s' * (row.cameras > 1)}, {depth}, {row.horizon} actions")
    print(
        f"{row.prompt_tokens} tokens, {row.changed_cells_mean:.1f} cells changed, "
        f"{row.moved_cells_mean:.1f} codes moved, {row.depth_passes_mean:.1f} depth passes"
    )
    if row.note:
        print(f"note: {row.note}")
    print(f"{'stage, ms':<12}" + "".join(f"{name:>10}" for name in _COLUMNS))
    for stage, times in [*row.stages_ms.items(), ("call", row.call_ms)]:
        floor_ms = row.floors_ms.get(stage)
        numbers = (times.min, times.p50, times.p95, times.p99, times.max, floor_ms)
        cells = "".join(f"{'-' if n is None else format(n, '.2f'):>10}" for n in numbers)
        share = format(floor_ms / times.p50, ".0%") if floor_ms and times.p50 else "-"
        print(f"{stage:<12}{cells}{share:>10}")
