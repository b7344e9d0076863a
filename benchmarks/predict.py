"""What a call of a model would take on a board: time, memory, and how often it could replan.

Each pass takes its reads or its products, whichever is longer. Nothing is run; how far that is from
the truth is measured by `benchmarks.predict_check` on the machine it runs on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.errors import PredictionError
from benchmarks.machine_limits import CPU, GPU, UNITS, Limits, limits_of_mode
from benchmarks.profile_report import StageRow
from benchmarks.workload import (
    STAGES,
    Scenario,
    Scene,
    Workload,
    cache_bytes,
    scene_of,
    stage_passes,
    workload_of_manifest,
)
from edge.board_profile import BoardProfile
from edge.hardware import DERIVED, UNVERIFIED, Figure, Hardware
from edge.manifest import Manifest
from edge.profile import CameraProfile, Profile
from quantization.recipes import RECIPES

NO_DEPTH, FIRST, CHANGED, STILL = "no depth", "first frame", "third changed", "still"
# Of random weights of real size (docs/performance.md): 10 of 30 changed codes that moved took 5
# passes behind the prefill, 84 of 100 took 27; 16 rows a pass is what its time leaves for rows.
_CHANGED_PASSES, _FIRST_PASSES, _ROWS_A_PASS = 0.05, 0.33, 16  # passes a depth cell
# Largest first: what `fits` recommends is the first that does.
_RECIPES = ("int8-int4", "int8", "int4")
_MIB = 1 << 20

PROGRAM_BYTES = Figure(
    150e6, UNVERIFIED, "room for libraries, pictures and recorder; 0.03 GB right after importing"
)
# The full-size model had 0.70 GB more in use than weights, keys, values and program; it had 600
# rows, and its widest rows are 9728 numbers of 4 bytes.
WORK_ROWS = Figure(
    30.0,
    DERIVED,
    "rows as wide as the widest matrix: fitted to peaks of three recipes (docs/performance.md)",
)
CUDA_BYTES = Figure(
    1.1 * 2**30, UNVERIFIED, "CUDA context and libraries: 6.6 GiB usable of which 5.5 are planned"
)


@dataclass(frozen=True, slots=True)
class Need:
    """Memory a policy takes, bytes."""

    weights: float
    cache: float  # keys and values
    work: float  # results between layers
    program: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.cache + self.work + self.program


@dataclass(frozen=True, slots=True)
class UnitPrediction:
    """One unit of a board."""

    unit: str
    kind: str | None  # of the least sure figure
    reason: str | None  # why there are no figures
    stages_ms: dict[str, dict[str, float]]  # by scenario and stage
    need_bytes: float
    fits: bool | None  # also what the board has for a bundle; None: usable memory is not known

    def call_ms(self, scenario: str) -> float | None:
        """Return the whole call, or None where nothing is known."""
        stages = self.stages_ms.get(scenario)
        return sum(stages.values()) if stages else None


@dataclass(frozen=True, slots=True)
class BoardPrediction:
    """A board in a power mode."""

    board: str
    hardware: Hardware
    max_policy_hz: float
    max_chunk_age_s: float
    bundle_mib: int | None
    chunk_s: float  # how long the actions of a call last
    recipe: str
    scene: Scene
    need: Need
    usable: Figure  # MiB
    units: dict[str, UnitPrediction]
    fitting_recipe: str | None  # another one that would fit the processor's memory

    def replans_hz(self, unit: str, scenario: str) -> float | None:
        """Return how often a chunk could be predicted, the profile's own limit included.

        After a call that outlasts its chunk the policy waits until the arm has lived through that
        chunk, or until it is too old to be followed (`edge.policy_thread`).
        """
        call_ms = self.units[unit].call_ms(scenario)
        if not call_ms:
            return None
        period_s = call_s = call_ms / 1e3
        if call_s >= self.chunk_s:
            period_s += min(self.chunk_s, max(0.0, self.max_chunk_age_s - call_s))
        return min(1.0 / period_s, self.max_policy_hz)


def scenarios_of(work: Workload) -> list[Scenario]:
    """Return the calls that are predicted, fewer for a model without depth."""
    cells = work.model.depth_cells
    if not cells:
        return [Scenario(NO_DEPTH, False, 0, 0)]
    rows = min(_ROWS_A_PASS, cells + 2)
    return [
        Scenario(NO_DEPTH, False, 0, 0),
        Scenario(FIRST, True, round(cells * _FIRST_PASSES), rows),
        Scenario(CHANGED, True, max(1, round(cells * _CHANGED_PASSES)), rows),
        Scenario(STILL, True, 0, 0),
    ]


def predict_board(
    work: Workload, board: BoardProfile, cameras: Sequence[CameraProfile], action_hz: float
) -> BoardPrediction:
    """Predict one board; `PredictionError` when nothing is known of it, or of its power mode.

    The arm moves through `action_hz` actions of a chunk a second.
    """
    hardware = _known(board)
    scene = scene_of(work.model, [(camera.width, camera.height) for camera in cameras])
    need = needed(work, scene)
    units = {unit: _unit(work, scene, board, need, unit) for unit in UNITS}
    fitting = None if units[CPU].fits else fitting_recipe(work, scene, board)
    return BoardPrediction(
        board=board.name,
        hardware=hardware,
        max_policy_hz=board.max_policy_hz,
        max_chunk_age_s=board.max_chunk_age_s,
        bundle_mib=board.bundle_mib,
        chunk_s=scene.horizon / action_hz,
        recipe=work.recipe,
        scene=scene,
        need=need,
        usable=hardware.usable_mib,
        units=units,
        fitting_recipe=fitting,
    )


def predict_row(
    profile: Profile, manifest: Manifest, row: StageRow
) -> tuple[dict[str, Any] | None, str]:
    """Return what a report shows beside a measured row, or None and the reason.

    It is the processor of the profile's board, given the prompt and the depth passes that were
    counted, which pictures that mean nothing do not tell beforehand.
    """
    board = profile.board
    try:
        limits = limits_of_mode(_known(board).power_mode, CPU)
    except PredictionError as error:
        return None, str(error)
    if not isinstance(limits, Limits):
        return None, f"board {board.name}: {limits}"
    work = workload_of_manifest(manifest, board.name)
    camera = profile.cameras[0]
    scene = scene_of(work.model, [(camera.width, camera.height)] * row.cameras, row.horizon)
    scene = replace(scene, prompt_tokens=row.prompt_tokens)
    scenario = counted_scenario(work, row.changed_percent, row.depth_passes_mean)
    stages_ms = predicted_stages(work, scene, scenario, limits)
    predicted = {
        "board": board.name,
        "unit": CPU,
        "kind": limits.kind,
        "depth_passes": scenario.later_passes + int(scenario.depth),
        "need_bytes": needed(work, scene).total,
        "call_ms": sum(stages_ms.values()),
        "stages_ms": stages_ms,
    }
    return predicted, ""


def counted_scenario(work: Workload, changed_percent: int | None, depth_passes: float) -> Scenario:
    """Return the scenario of calls that were counted; no share of changed cells means no depth."""
    name = {None: NO_DEPTH, 0: STILL}.get(changed_percent, CHANGED)
    rows = min(_ROWS_A_PASS, work.model.depth_cells + 2)
    later = max(0, round(depth_passes) - 1)
    return Scenario(name, changed_percent is not None, later, rows)


def needed(work: Workload, scene: Scene) -> Need:
    """Return the memory a policy takes once it has been called with depth."""
    length = scene.prompt_tokens + (work.model.depth_cells + 2 if work.model.depth_cells else 0)
    widest = max(max(shape) for path, shape in work.shapes.items() if "/head" not in path)
    return Need(
        weights=float(work.weight_bytes),
        cache=float(cache_bytes(work.model, length)),
        work=WORK_ROWS.value * length * widest * 4.0,
        program=PROGRAM_BYTES.value,
    )


def fitting_recipe(work: Workload, scene: Scene, board: BoardProfile) -> str | None:
    """Return the largest shipped recipe that fits, None when none does or nothing is known."""
    for name in _RECIPES:
        smaller = work.in_recipe(RECIPES[name])
        if _fits(smaller, needed(smaller, scene).total, board):
            return name
    return None


def predicted_stages(
    work: Workload, scene: Scene, scenario: Scenario, limits: Limits
) -> dict[str, float]:
    """Return the milliseconds of every stage."""
    passes = stage_passes(work, scene, scenario)
    return {stage: 1e3 * limits.seconds(stage, passes[stage]) for stage in STAGES}


def _known(board: BoardProfile) -> Hardware:
    hardware = board.hardware
    if hardware is None:
        raise PredictionError(
            f"board {board.name} says nothing of its hardware; name a board of one power mode, "
            "or measure this machine with --this-machine"
        )
    if hardware.power_mode is None:
        raise PredictionError(
            f"board {board.name} is a module in whichever power mode it is; name a board of one, "
            f"{board.name}_..., as 'molmoact-bench predict --all' lists them"
        )
    return hardware


def _fits(work: Workload, need_bytes: float, board: BoardProfile) -> bool | None:
    """Tell whether memory holds it all, and the bundle is one that `--recipe auto` could build."""
    usable_mib = board.hardware.usable_mib.value
    if usable_mib is None:
        return None
    bundle_mib = usable_mib if board.bundle_mib is None else board.bundle_mib
    return need_bytes <= usable_mib * _MIB and work.bundle_bytes <= bundle_mib * _MIB


def _unit(
    work: Workload, scene: Scene, board: BoardProfile, need: Need, unit: str
) -> UnitPrediction:
    limits = limits_of_mode(board.hardware.power_mode, unit)
    need_bytes = need.total + (CUDA_BYTES.value if unit == GPU else 0.0)
    known = isinstance(limits, Limits)
    return UnitPrediction(
        unit=unit,
        kind=limits.kind if known else None,
        reason=None if known else limits,
        stages_ms={
            scenario.name: predicted_stages(work, scene, scenario, limits)
            for scenario in scenarios_of(work)
        }
        if known
        else {},
        need_bytes=need_bytes,
        fits=_fits(work, need_bytes, board),
    )
