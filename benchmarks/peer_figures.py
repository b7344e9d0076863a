"""What one side's answer comes to: medians, and the spread beside them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peer_job import NO_DEPTH, SHARE_THAT_DIFFERS, STILL, Answer, Call
from benchmarks.peer_process import Watched


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds over the counted calls."""

    p50: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class ScenarioFigures:
    """One scenario on one side; counts are means over the calls."""

    call_ms: Spread
    stages_ms: dict[str, Spread]
    depth_adds_ms: Spread | None  # to the call without depth that came right after
    depth_passes: float
    changed_cells: float
    moved_cells: float | None
    moved_cells_asked: int | None


@dataclass(frozen=True, slots=True)
class SideFigures:
    """Everything one process told."""

    name: str
    form: str  # recipe or number format
    versions: dict[str, str]
    load_s: float
    watched: Watched
    scenarios: dict[str, ScenarioFigures]
    prefill_ms: Spread
    one_token_ms: Spread | None
    codes_as_lerobot: float | None  # share of the scene's codes
    notes: list[str]


def side_figures(
    name: str, form: str, answer: Answer, watched: Watched, public: Answer
) -> SideFigures:
    """Sum up what a side measured; `public` is LeRobot's answer, whose codes it is held against."""
    plain = answer.calls.get(NO_DEPTH, [])
    agree = None
    if answer.codes and answer is not public:
        agree = float(np.mean(np.array(answer.codes) == np.array(public.codes)))
    prefill_s = answer.prefill_s or [call.stages_s["prefill"] for call in plain]
    return SideFigures(
        name=name,
        form=form,
        versions=answer.versions,
        load_s=answer.load_s,
        watched=watched,
        scenarios={
            scenario: _scenario(scenario, calls, len(answer.changed))
            for scenario, calls in answer.calls.items()
        },
        prefill_ms=_spread(prefill_s),
        one_token_ms=_spread(answer.one_token_s) if answer.one_token_s else None,
        codes_as_lerobot=agree,
        notes=answer.notes,
    )


def _scenario(scenario: str, calls: list[Call], changed: int) -> ScenarioFigures:
    added_s = [call.call_s - call.twin_s for call in calls if call.twin_s is not None]
    told = [call.moved_cells for call in calls if call.moved_cells is not None]
    asked = {STILL: 0.0, **SHARE_THAT_DIFFERS}.get(scenario)
    return ScenarioFigures(
        call_ms=_spread([call.call_s for call in calls]),
        stages_ms={
            stage: _spread([call.stages_s[stage] for call in calls]) for stage in calls[0].stages_s
        },
        depth_adds_ms=_spread(added_s) if added_s else None,
        depth_passes=statistics.fmean(call.depth_passes for call in calls),
        changed_cells=statistics.fmean(call.changed_cells for call in calls),
        moved_cells=statistics.fmean(told) if told else None,
        moved_cells_asked=None if asked is None or not told else round(asked * changed),
    )


def _spread(seconds: Sequence[float]) -> Spread:
    return Spread(*(1e3 * of(seconds) for of in (statistics.median, min, max)))
