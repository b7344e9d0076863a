"""Judge the rungs of a board's ladder by trials: a bundle at each rung's settings, and at none.

    verdicts = judge_rungs(Path("bundle"), load_profile("my_board"), LadderSettings(), print)

Both sides do the same tasks with the same noise on the simulated desk, so that what differs is the
rung. Rungs are judged downwards, each on top of those that passed, as a run uses them
(`edge.ladder_rungs`). What a trial cannot show: heat, and calls that come late.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from edge.bundle import open_bundle
from edge.gate_entry import FAILED, PASSED, Asked, GateCheck
from edge.ladder_profile import HOLD, Rung
from edge.ladder_rungs import Acting, impossible
from edge.manifest import Manifest
from edge.normalization import RobotTag, choose_tag
from edge.observation import ActionsMode, DepthMode
from edge.profile import Profile
from edge.report import machine_name
from edge.rung_verdicts import (
    LADDER_NAME,
    RungVerdict,
    read_verdicts,
    settings_of,
    verdicts_text,
)
from quantization.errors import BuildError
from quantization.fidelity.closed_loop import ClosedLoopReport, Runner, measure_closed_loop
from quantization.fidelity.desk import require_desk
from quantization.gate_file import only_gate
from quantization.gate_limits import DROP_BOUND_POINTS, DROP_POINTS, FULL_SUCCESS_PERCENT

TRIALS = 150
LATENCY_S = 0.1
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """How rungs are judged."""

    trials: int = TRIALS
    seed: int = 0
    workers: int = 1  # processes
    journal: Path | None = None  # of trials, so that they are not run twice
    latency_s: float = LATENCY_S  # from observation to chunk, stated
    replan_s: float | None = None  # at full pace; None: as often as the board profile allows
    norm_tag: str | None = None
    depth: DepthMode | None = None
    actions: ActionsMode | None = None


def judge_rungs(
    bundle: Path,
    profile: Profile,
    settings: LadderSettings,
    say: Say,
    progress: Callable[[int, int], object] = lambda done, trials: None,
) -> list[RungVerdict]:
    """Judge every rung that the bundle can use and keep the verdicts beside its manifest.

    Verdicts on other settings stay. Each one is written as soon as it is there. Raises `BuildError`
    or another `EdgeError` when there is nothing to judge by.
    """
    ladder = profile.board.ladder
    if ladder is None:
        raise BuildError(
            f"board {profile.board.name} of profile {profile.name} has no ladder; nothing to judge"
        )
    with only_gate(bundle), tempfile.TemporaryDirectory() as folder:
        if settings.journal is None:  # full pace is tried once for all rungs
            settings = replace(settings, journal=Path(folder) / "trials.jsonl")
        opened = open_bundle(bundle, trust_memory=False)
        tag = choose_tag(opened.tags, settings.norm_tag)
        acting = _acting(bundle, opened.manifest, tag, profile, settings)
        require_desk()
        found: list[RungVerdict] = []
        used: list[Rung] = []
        for rung in ladder.rungs:
            why = impossible(rung, acting)
            if why is None and rung.change == HOLD:
                why = "holds the arm; the safety gate's own, and no trial's"
            if why is not None:
                say(f"rung {rung.name}: not judged: {why}")
                continue
            report = _trials(acting, [*used, rung], profile, settings, progress)
            verdict = _verdict(acting, [*used, rung], report, settings)
            _keep(bundle, opened.manifest, verdict)
            say(verdict_line(rung, verdict, report))
            found.append(verdict)
            if verdict.verdict == PASSED:
                used.append(rung)
    return found


def verdict_line(rung: Rung, verdict: RungVerdict, report: ClosedLoopReport) -> str:
    """Tell what came of a rung's trials."""
    ours, full, between = report.figures, report.against_figures, report.difference
    bounds = f"{100 * between.low:+.1f}..{100 * between.high:+.1f}"
    reason = f": {verdict.failures}" if verdict.failures else ""
    return (
        f"rung {rung.name}: {verdict.verdict}{reason}; {100 * ours.success.share:.1f} % of "
        f"{verdict.trials} trials done, {100 * full.success.share:.1f} % at full pace, difference "
        f"{100 * between.difference:+.1f} points ({bounds})"
    )


def _acting(
    bundle: Path, manifest: Manifest, tag: RobotTag, profile: Profile, settings: LadderSettings
) -> Acting:
    depth = settings.depth or manifest.model.usual_depth
    actions = settings.actions or manifest.model.actions[0]
    chunk_s = tag.n_action_steps / profile.arm.action_hz
    asked = Asked(actions, tag.name, depth)
    return Acting(bundle, manifest, asked, chunk_s, profile.cameras)


def _trials(
    acting: Acting,
    rungs: list[Rung],
    profile: Profile,
    settings: LadderSettings,
    progress: Callable[[int, int], object],
) -> ClosedLoopReport:
    from sim.rollout import RolloutSettings, at_rungs, draw_trials

    whole = RolloutSettings(
        replan_s=_replan_s(profile, settings),
        latency_s=settings.latency_s,
        depth=acting.asked.depth,
        norm_tag=acting.asked.norm_tag,
    )
    return measure_closed_loop(
        Runner(acting.bundle, at_rungs(whole, rungs), acting.asked.actions),
        Runner(acting.bundle, whole, acting.asked.actions),
        draw_trials(settings.trials, settings.seed),
        whole,
        workers=settings.workers,
        journal=settings.journal,
        spread=False,
        progress=progress,
    )


def _replan_s(profile: Profile, settings: LadderSettings) -> float:
    if settings.replan_s is not None:
        return settings.replan_s
    return max(1.0 / profile.board.max_policy_hz, settings.latency_s)


def _verdict(
    acting: Acting, rungs: list[Rung], report: ClosedLoopReport, settings: LadderSettings
) -> RungVerdict:
    between, full = report.difference, report.against_figures.success.share
    checks = {
        "success_drop_points": GateCheck(0.0 - 100.0 * between.difference, DROP_POINTS, False),
        "success_drop_bound_points": GateCheck(0.0 - 100.0 * between.low, DROP_BOUND_POINTS, False),
        "full_pace_success_percent": GateCheck(100.0 * full, FULL_SUCCESS_PERCENT, True),
    }
    return RungVerdict(
        settings=settings_of(rungs),
        verdict=PASSED if all(check.holds for check in checks.values()) else FAILED,
        checks=checks,
        actions=acting.asked.actions,
        depth=acting.asked.depth,
        norm_tag=acting.asked.norm_tag,
        trials=settings.trials,
        seed=settings.seed,
        replan_s=report.against_settings.replan_s,
        latency_s=settings.latency_s,
        machine=machine_name(),
        judged_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        judged_by=f"molmoact-edge {importlib.metadata.version('molmoact-edge')}",
    )


def _keep(bundle: Path, manifest: Manifest, verdict: RungVerdict) -> None:
    """Write a verdict in place of an older one on the same; whole or not at all."""
    about = ("settings", "actions", "depth", "norm_tag")
    kept = [
        old
        for old in read_verdicts(bundle, manifest)[0]
        if any(getattr(old, name) != getattr(verdict, name) for name in about)
    ]
    unfinished = bundle / f".{LADDER_NAME}.judged"
    unfinished.write_text(verdicts_text(manifest, [*kept, verdict]), "utf-8")
    unfinished.replace(bundle / LADDER_NAME)
