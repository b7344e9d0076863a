"""Which rungs of a board's ladder a run may use: what its bundle can do, and what trials allow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.gate_entry import FAILED, PASSED, UNJUDGED, Asked
from edge.ladder_profile import (
    CAMERA_HZ,
    DEPTH_EVERY_CALLS,
    DEPTH_MAX_CELLS,
    DRAFT_WINDOW,
    FLOW_STEPS,
    MAX_POLICY_HZ,
    LadderProfile,
    Rung,
)
from edge.manifest import CONTINUOUS, Manifest
from edge.pace import runnable_flow_steps
from edge.profile import CameraProfile
from edge.rung_verdicts import RungVerdict, find_verdict, read_verdicts, settings_of

# What a policy answers, or sees, hangs on these. The other rungs only take speed away, or nothing.
NEEDS_VERDICT = (MAX_POLICY_HZ, DEPTH_EVERY_CALLS, DEPTH_MAX_CELLS, FLOW_STEPS, CAMERA_HZ)
_OF_DEPTH = (DRAFT_WINDOW, DEPTH_EVERY_CALLS, DEPTH_MAX_CELLS)
_NEVER = "never validated with this bundle, way of acting, depth and rungs before"


@dataclass(frozen=True, slots=True)
class Acting:
    """How a bundle is asked in a run."""

    bundle: Path
    manifest: Manifest
    asked: Asked
    chunk_s: float  # how long the actions of a call last
    cameras: tuple[CameraProfile, ...]


def usable_rungs(
    ladder: LadderProfile, acting: Acting, profile: str, accept: Collection[str] = ()
) -> tuple[tuple[Rung, ...], list[str]]:
    """Return the rungs that may be used, in order, and lines that say why the others may not.

    A rung that changes what the policy sees or answers needs a verdict on it and those before it
    that are used. `accept` names what of FAILED and UNJUDGED is used all the same; `profile` is for
    the remedy.
    """
    verdicts, problem = read_verdicts(acting.bundle, acting.manifest)
    used: list[Rung] = []
    left_out: dict[str, list[str]] = {}  # names by reason
    for rung in ladder.rungs:
        why = impossible(rung, acting) or _unproven([*used, rung], verdicts, acting, accept)
        if why is None:
            used.append(rung)
        else:
            left_out.setdefault(why, []).append(rung.name)
    lines = [] if problem is None else [problem]
    lines += [f"left out: {', '.join(names)}: {why}" for why, names in left_out.items()]
    if _NEVER in left_out:
        lines.append(
            f"'molmoact-quantize ladder {acting.bundle} --profile {profile}' validates rungs; "
            "--accept-unjudged uses them all the same"
        )
    return tuple(used), lines


def impossible(rung: Rung, acting: Acting) -> str | None:
    """Say why a bundle cannot give this up, None when it can."""
    model, change = acting.manifest.model, rung.change
    if change in _OF_DEPTH and acting.asked.depth == "off":
        return "depth is off"
    if change == DEPTH_MAX_CELLS and rung.value >= model.depth_cells:
        return f"this bundle has {model.depth_cells} depth cells"
    if change == MAX_POLICY_HZ and 1.0 / rung.value >= acting.chunk_s:
        return f"the actions of a call last {acting.chunk_s:g} s, then the arm would stand still"
    if change == CAMERA_HZ:
        return _too_few_pictures(rung, acting.cameras)
    if change != FLOW_STEPS:
        return None
    if acting.asked.actions != CONTINUOUS:
        return "actions are tokens, and have no flow"
    built = model.flow_steps
    possible = [steps for steps in runnable_flow_steps(built) if steps < built]
    if rung.value in possible:
        return None
    listed = ", ".join(map(str, possible)) or "no fewer"
    return f"this bundle was built for {built} flow steps and can run {listed} exactly"


def _too_few_pictures(rung: Rung, cameras: Sequence[CameraProfile]) -> str | None:
    for camera in cameras:
        if rung.value >= camera.fps:
            return f"camera {camera.name} gives {camera.fps} pictures a second"
        oldest_s = 1.0 / rung.value + 1.0 / camera.fps
        if oldest_s >= camera.max_age_s:
            limit = f"its max_age_s is {camera.max_age_s:g}"
            return f"pictures of camera {camera.name} would be {oldest_s:.2f} s old, {limit}"
    return None


def _unproven(
    rungs: Sequence[Rung],
    verdicts: Sequence[RungVerdict],
    acting: Acting,
    accept: Collection[str],
) -> str | None:
    if rungs[-1].change not in NEEDS_VERDICT:
        return None
    found = find_verdict(verdicts, settings_of(rungs), acting.asked)
    if found is None:
        return None if UNJUDGED in accept else _NEVER
    if found.verdict == PASSED or FAILED in accept:
        return None
    return f"failed its trials on {found.judged_at[:10]}: {found.failures}"
