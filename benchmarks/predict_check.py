"""Predicted beside measured, on the machine this runs on: how far the model can be trusted.

The ceiling is measured before and after, then calls as `molmoact-bench latency` makes them. How
many passes the depth span takes cannot be known beforehand with pictures that mean nothing, so the
prediction of a row with depth is given the passes that were counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.ceiling import Ceiling, higher, measure_ceiling
from benchmarks.latency import WARM_UP_CALLS, measure_row
from benchmarks.latency_report import Setting
from benchmarks.machine_limits import limits_of_ceiling
from benchmarks.predict import counted_scenario, predicted_stages
from benchmarks.stimulus import count_tokens
from benchmarks.workload import STAGES, Scenario, Scene, scene_of, workload_of_manifest
from edge.images import CHANGE_CELL_PX
from edge.manifest import read_manifest
from edge.normalization import choose_tag
from edge.policy import Policy
from edge.profile import load_profile

_CHANGED_PERCENT = 30
_PLAIN_SIDE_PX = 320


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """One setting of one bundle: medians of the counted calls beside what was predicted."""

    bundle: str
    recipe: str
    cameras: int
    scenario: str
    calls: int
    passes: float
    measured_ms: dict[str, float]
    predicted_ms: dict[str, float]

    @property
    def error(self) -> float:
        """Predicted over measured of the stages together, less 1."""
        return sum(self.predicted_ms.values()) / sum(self.measured_ms.values()) - 1.0


@dataclass(frozen=True, slots=True)
class MachineCheck:
    """All rows, and the ceiling that they rest on."""

    ceiling: Ceiling
    rows: list[CheckedRow]


def check_machine(
    bundles: Sequence[Path],
    *,
    profile: str | None,
    cameras: Sequence[int],
    norm_tag: str | None,
    repeats: int,
    seconds_per_row: float | None,
) -> MachineCheck:
    """Measure every bundle with every number of cameras; raises `EdgeError`."""
    threads = load_profile(profile).board.threads if profile else None
    before = measure_ceiling(threads)
    measured = [
        row
        for bundle in bundles
        for row in _measure(bundle, profile, cameras, norm_tag, repeats, seconds_per_row)
    ]
    ceiling = higher(before, measure_ceiling(threads))
    return MachineCheck(ceiling, [_beside(row, ceiling) for row in measured])


def print_check(check: MachineCheck, machine: str) -> None:
    """Print predicted beside measured, and the error of each row and of all."""
    ceiling = check.ceiling
    print(f"measured on {machine} with {ceiling.threads} threads; predictions from its ceiling:")
    print(
        f"reads {ceiling.read_gb_s:.1f} GB/s, FP32 {ceiling.fp32_gflop_s:.0f} GFLOP/s, INT8 "
        f"{ceiling.int8_gop_s:.0f} GOP/s; milliseconds, predicted / measured (median)"
    )
    print(
        f"\n{'bundle':<26}{'cam':>4} {'scenario':<14}{'passes':>7}"
        + "".join(f"{stage:>18}" for stage in STAGES)
        + f"{'together':>18}{'error':>8}"
    )
    for row in check.rows:
        pairs = [(row.predicted_ms[stage], row.measured_ms[stage]) for stage in STAGES]
        pairs.append((sum(row.predicted_ms.values()), sum(row.measured_ms.values())))
        print(
            f"{Path(row.bundle).name[:25]:<26}{row.cameras:>4} {row.scenario:<14}{row.passes:>7.0f}"
            + "".join(f"{f'{predicted:.1f} / {found:.1f}':>18}" for predicted, found in pairs)
            + f"{100 * row.error:>+7.0f}%"
        )
    errors = [abs(row.error) for row in check.rows]
    print(f"\nerror of the whole call: mean {100 * np.mean(errors):.0f} %, ", end="")
    print(f"worst {100 * max(errors):.0f} %, over {len(errors)} rows")


@dataclass(frozen=True, slots=True)
class _Measured:
    bundle: Path
    scenario: Scenario
    scene: Scene
    cameras: int
    calls: int
    stages_ms: dict[str, float]


def _measure(
    bundle: Path,
    profile: str | None,
    cameras: Sequence[int],
    norm_tag: str | None,
    repeats: int,
    seconds_per_row: float | None,
) -> list[_Measured]:
    manifest = read_manifest(bundle)
    policy = Policy.open(bundle, profile=profile)
    count_tokens(policy)
    tag = choose_tag(policy.bundle.tags, norm_tag)
    work = workload_of_manifest(manifest, str(bundle))
    shares = [None, 0, _CHANGED_PERCENT] if manifest.model.depth_cells else [None]
    side_px = round(manifest.model.depth_cells**0.5) * CHANGE_CELL_PX or _PLAIN_SIDE_PX
    rows = []
    for count in cameras:
        pictures = scene_of(manifest.model, [(side_px, side_px)] * count, tag.action_horizon)
        for share in shares:
            setting = Setting(count, share, tag.action_horizon)
            calls = measure_row(policy, tag, setting, repeats, seconds_per_row)
            counted = calls.results[WARM_UP_CALLS:]
            passes = float(np.median([call.depth_passes for call in counted]))
            scenario = counted_scenario(work, share, passes)
            scene = replace(pictures, prompt_tokens=counted[0].prompt_tokens)
            stages_ms = {
                stage: 1e3 * float(np.median([call.stages[stage] for call in counted]))
                for stage in STAGES
            }
            rows.append(_Measured(bundle, scenario, scene, count, len(counted), stages_ms))
    return rows


def _beside(row: _Measured, ceiling: Ceiling) -> CheckedRow:
    work = workload_of_manifest(read_manifest(row.bundle), str(row.bundle))
    limits = limits_of_ceiling(ceiling)
    return CheckedRow(
        bundle=str(row.bundle),
        recipe=work.recipe,
        cameras=row.cameras,
        scenario=row.scenario.name,
        calls=row.calls,
        passes=row.scenario.later_passes + float(row.scenario.depth),
        measured_ms=row.stages_ms,
        predicted_ms=predicted_stages(work, row.scene, row.scenario, limits),
    )
