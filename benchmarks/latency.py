"""How long each stage of a policy call takes, and what it grows with.

Pictures are drawn on the grid of the depth cells, so that a wanted share of the cells changes from
call to call; states and tasks stay the same, so that the prompt does. The ceiling is the time that
reading a stage's weights once takes at the measured bandwidth: no stage can be faster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.ceiling import Ceiling, measure_ceiling
from edge.images import CHANGE_CELL_PX
from edge.manifest import Manifest
from edge.normalization import choose_tag
from edge.policy import STAGES, Policy, PolicyResult
from edge.report import machine_name

WARM_UP_CALLS = 2
FEWEST_REPEATS = 30
_TASK = "put the red cube in the bin"
_PLAIN_SIDE_PX = 320  # of a picture when the checkpoint has no depth cells
_GRAPH_OF_STAGE = {"vision": "vision", "prefill": "decoder", "expert": "expert"}


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds of one stage over the counted calls."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Row:
    """One setting of the cost drivers."""

    cameras: int
    changed_percent: int | None  # share of depth cells whose picture changes; None: no depth
    prompt_tokens: int
    depth_passes_mean: float
    changed_cells_mean: float
    moved_cells_mean: float
    stages_ms: dict[str, StageTimes]
    call_ms: StageTimes


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Everything `print_latency` prints, and the JSON line."""

    machine: str
    bundle: str
    recipe: str
    source_sha256: str
    profile: str | None
    repeats: int
    warm_up_calls: int
    load_s: float
    first_call_s: float
    ceiling: Ceiling
    ceiling_ms: dict[str, float]  # per stage, for one read of its weights
    rows: list[Row]


def measure_latency(
    bundle: Path,
    *,
    profile: str | None,
    cameras: Sequence[int],
    changed_percent: Sequence[int],
    norm_tag: str | None,
    repeats: int,
) -> LatencyReport:
    """Time calls for every number of cameras and share of changed cells; raises `EdgeError`."""
    ceiling = measure_ceiling()
    started = time.perf_counter()
    policy = Policy.open(bundle, profile=profile)
    load_s = time.perf_counter() - started
    manifest = policy.bundle.manifest
    tag = choose_tag(policy.bundle.tags, norm_tag)
    state = tag.state.unnormalize(np.zeros(tag.state.dim))
    first_call_s, rows = None, []
    shares = [None, *(changed_percent if manifest.model.depth_cells else [])]
    for count in [len(tag.cameras)] if tag.cameras else cameras:
        for share in shares:
            policy.reset()
            calls, seconds = [], []
            for images in _pictures(manifest, count, share or 0, repeats + WARM_UP_CALLS):
                started = time.perf_counter()
                depth = "off" if share is None else "incremental"
                calls.append(policy.act(images, _TASK, state, tag.name, depth=depth))
                seconds.append(time.perf_counter() - started)
                first_call_s = first_call_s or seconds[0]
            rows.append(_row(count, share, calls[WARM_UP_CALLS:], seconds[WARM_UP_CALLS:]))
    return LatencyReport(
        machine=machine_name(),
        bundle=str(bundle),
        recipe=manifest.recipe.name,
        source_sha256=manifest.source.sha256,
        profile=profile,
        repeats=repeats,
        warm_up_calls=WARM_UP_CALLS,
        load_s=load_s,
        first_call_s=first_call_s,
        ceiling=ceiling,
        ceiling_ms=_ceiling_ms(manifest, ceiling),
        rows=rows,
    )


def print_latency(report: LatencyReport) -> None:
    """Print card, ceiling, table and, last, one JSON line."""
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
    for stage, milliseconds in report.ceiling_ms.items():
        print(f"  {stage:<10} cannot take less than {milliseconds:.2f} ms (its weights read once)")
    for row in report.rows:
        what = "no depth" if row.changed_percent is None else f"{row.changed_percent} % changed"
        print(
            f"\n{row.cameras} cameras, {what}: {row.prompt_tokens} tokens, "
            f"{row.changed_cells_mean:.1f} cells changed, {row.moved_cells_mean:.1f} codes moved, "
            f"{row.depth_passes_mean:.1f} depth passes"
        )
        print(f"{'stage, ms':<12}{'p50':>10}{'p95':>10}{'p99':>10}{'max':>10}")
        for stage, times in [*row.stages_ms.items(), ("call", row.call_ms)]:
            print(
                f"{stage:<12}{times.p50:>10.2f}{times.p95:>10.2f}{times.p99:>10.2f}"
                f"{times.max:>10.2f}"
            )
    print(json.dumps(asdict(report)))


def _pictures(
    manifest: Manifest, cameras: int, changed_percent: int, calls: int
) -> Iterator[list[np.ndarray]]:
    """Give pictures for each call; `changed_percent` of the first one's depth cells change."""
    random = np.random.default_rng(0)
    cells = manifest.model.depth_cells
    side = round(cells**0.5)
    side_px = side * CHANGE_CELL_PX or _PLAIN_SIDE_PX
    images = [random.integers(0, 256, (side_px, side_px, 3), np.uint8) for _ in range(cameras)]
    for _ in range(calls):
        for cell in random.permutation(cells)[: round(cells * changed_percent / 100)]:
            row, column = divmod(int(cell), side)
            patch = images[0][
                row * CHANGE_CELL_PX : (row + 1) * CHANGE_CELL_PX,
                column * CHANGE_CELL_PX : (column + 1) * CHANGE_CELL_PX,
            ]
            patch[:] = random.integers(0, 256, patch.shape, np.uint8)
        yield [image.copy() for image in images]


def _row(cameras: int, share: int | None, calls: list[PolicyResult], seconds: list[float]) -> Row:
    return Row(
        cameras=cameras,
        changed_percent=share,
        prompt_tokens=calls[0].prompt_tokens,
        depth_passes_mean=float(np.mean([call.depth_passes for call in calls])),
        changed_cells_mean=float(np.mean([call.changed_cells for call in calls])),
        moved_cells_mean=float(np.mean([call.moved_cells for call in calls])),
        stages_ms={stage: _times([call.stages[stage] for call in calls]) for stage in STAGES},
        call_ms=_times(seconds),
    )


def _times(seconds: list[float]) -> StageTimes:
    p50, p95, p99 = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return StageTimes(float(p50), float(p95), float(p99), 1e3 * max(seconds))


def _ceiling_ms(manifest: Manifest, ceiling: Ceiling) -> dict[str, float]:
    """Milliseconds to read a stage's matrices, as often as a call reads them."""
    reads = {"expert": manifest.model.flow_steps}
    totals = {}
    for stage, graph in _GRAPH_OF_STAGE.items():
        layers = [layer for layer in manifest.recipe.layers.values() if layer.graph == graph]
        size_bytes = sum(layer.size_bytes for layer in layers) * reads.get(stage, 1)
        totals[stage] = size_bytes / (ceiling.read_gb_s * 1e9) * 1e3
    return totals
