"""What a profile found: the records behind `report.json`, and how they are written and read.

Numbers that were not measured are null with a reason beside them. `repeats` hold what `compare`
needs to tell a change from noise.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import ProfileBenchError
from benchmarks.latency_report import StageTimes
from benchmarks.loop_bench import LoopRow
from benchmarks.machine_card import BundleCard, Labels, MachineCard, ProfileCard
from edge.errors import one_line, shown

SCHEMA = "molmoact-edge.profile.v1"
REPORT_NAME, HTML_NAME, TRACE_NAME = "report.json", "report.html", "trace.json"
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StageRow:
    """The policy at one setting, called again and again with nothing else to do."""

    cameras: int
    changed_percent: int | None  # share of depth cells whose picture changes; None: no depth
    horizon: int
    calls: int
    warm_up_calls: int
    note: str
    prompt_tokens: int
    depth_passes_mean: float
    stages_ms: dict[str, StageTimes]  # and "call", which is all of them
    repeats_ms: dict[str, list[float]]  # each counted call
    predicted: dict[str, Any] | None = None  # see `benchmarks.predict.predict_row`


@dataclass(frozen=True, slots=True)
class LoopPart:
    """The control loop while the policy runs beside it."""

    seconds: float
    task: str
    depth: str
    row: LoopRow
    stopped: str | None  # why the loop ended before its time; None: it did not
    actions: int  # goals of the policy that reached the bus
    ladder_level: int | None  # most rungs of the ladder in effect at once; None without a ladder
    repeats: dict[str, list[float]]  # by second: worst lateness, median tick; each policy call


@dataclass(frozen=True, slots=True)
class Energy:
    """What an action of the arm costs; None with the reason where power cannot be read."""

    mj_per_action: float | None
    reason: str  # what the power is, or why there is none
    idle_mw: float | None  # before anything ran
    loop_mw: float | None  # while the loop ran
    windows_mj: list[float]  # per action, between samples


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """The most this process had in memory in one phase, of the samples; simulator not included."""

    anon_mib: float
    file_mib: float
    swap_mib: float
    most_mib: float  # VmHWM: the most of all kinds together since the process began
    system_available_mib: float | None  # least


@dataclass(frozen=True, slots=True)
class BoardPart:
    """What the board said while it was measured."""

    throttled: bool | None  # in any sample; None: nothing here tells
    throttle_reasons: list[str]
    over_current_events: dict[str, int]
    hottest_c: float | None
    throttle_c: float | None
    samples: dict[str, list[Any]]  # columns; t_s from the start of the measurement


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """Everything that is in report.json."""

    schema: str
    created: str  # UTC
    labels: Labels
    machine: MachineCard
    bundle: BundleCard
    profile: ProfileCard
    load_s: float
    stages: list[StageRow]
    loop: LoopPart | None
    loop_reason: str  # why there is no loop
    board: BoardPart
    energy: Energy
    memory: dict[str, MemoryPart]
    predicted_reason: str  # why nothing is predicted
    command: str


def as_json(report: ProfileReport) -> dict[str, Any]:
    """Return the report as values that JSON has: what is no number is null."""
    return _finite(asdict(report))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_profile_report(path: Path) -> dict[str, Any]:
    """Read a report.json, or that of a folder; `ProfileBenchError` for anything else."""
    file = path / REPORT_NAME if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            text = opened.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ProfileBenchError(f"{file}: longer than {_MOST_BYTES} bytes; this is no report")
        report = json.loads(text)
    except OSError as error:
        raise ProfileBenchError(f"{file}: cannot read the report: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ProfileBenchError(f"{file}: no JSON ({one_line(error)}); profile again") from None
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise ProfileBenchError(
            f"{file}: schema is {shown(schema)}, this program reads {SCHEMA!r}; give a report.json "
            "of 'molmoact-bench profile'"
        )
    return report
