"""Judge a bundle by what the arm would do, and write the verdict into its manifest.

    entry = judge_bundle(Path("int4"), Path("whole"), GateSettings("sim", trials=60), print)

Both bundles answer the same observations and, where trials are asked for, do the same tasks on the
simulated desk. What is allowed is in `quantization.gate_limits`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from edge.bundle import open_bundle
from edge.gate_entry import FAILED, PASSED, GateCheck, GateEntry, is_whole
from edge.manifest import Manifest
from edge.normalization import choose_tag
from edge.observation import ActionsMode, DepthMode
from edge.report import machine_name
from quantization.errors import BuildError
from quantization.fidelity.closed_loop import ClosedLoopReport, Runner, measure_closed_loop
from quantization.fidelity.desk import require_desk
from quantization.fidelity.observations import (
    SIM,
    RecordedObservation,
    Sampling,
    recorded_observations,
)
from quantization.fidelity.open_loop import Conditions, measure_open_loop
from quantization.fidelity.report import OpenLoopReport
from quantization.gate_advice import layers_to_keep
from quantization.gate_file import only_gate, write_entry
from quantization.gate_limits import OF_EVIDENCE, check_chosen, gate_checks
from quantization.verify import verify_bundle

SAMPLES, TRIALS = 100, 60
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What a bundle is judged on."""

    episodes: str  # folder of a LeRobot v3 dataset, or "sim"
    samples: int = SAMPLES  # observations, at most
    trials: int = 0  # on the simulated desk
    seed: int = 0
    workers: int = 1  # processes for trials
    journal: Path | None = None  # of trials, so that they are not run twice
    embodiment: str = "so101"  # joint frame in which the dataset was recorded
    norm_tag: str | None = None
    depth: DepthMode | None = None
    actions: ActionsMode | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    advise: bool = True  # on failure, find the layers to keep at more bits


def judge_bundle(
    bundle: Path,
    against: Path,
    settings: GateSettings,
    say: Say,
    progress: Callable[[int, int], object] = lambda done, trials: None,
) -> Manifest:
    """Judge `bundle` against full precision and keep the verdict; return the new manifest.

    Raises `BuildError`, `BundleError` or another `EdgeError` when it cannot be judged; then the
    manifest stays as it was.
    """
    check_chosen(settings.limits, settings.trials)
    if settings.trials:
        require_desk()
    if against.exists() and bundle.exists() and against.samefile(bundle):
        raise BuildError(f"{bundle}: is given as --against too; a bundle cannot judge itself")
    with only_gate(bundle):
        judged, whole = verify_bundle(bundle), verify_bundle(against)
        if is_whole(judged):
            raise BuildError(f"{bundle}: is full precision itself, and needs no verdict to run")
        if not is_whole(whole):
            raise BuildError(
                f"{against}: recipe {whole.recipe.name} is not full precision; judge against a "
                "bundle of the same checkpoint built with --recipe fp32"
            )
        if judged.source.sha256 != whole.source.sha256:
            raise BuildError(f"{bundle} and {against} come from different checkpoints")
        seen = observe(against, settings)
        say(f"{len(seen)} observations, from {settings.episodes}")
        conditions = Conditions(settings.norm_tag, settings.depth, settings.actions, settings.seed)
        report = measure_open_loop(bundle, against, seen, conditions)
        trials = _trials(bundle, against, settings, report, progress) if settings.trials else None
        checks = gate_checks(
            report,
            trials and trials.difference,
            trials and trials.against_figures.success.share,
            settings.limits,
        )
        failed = {name for name, check in checks.items() if not check.holds}
        keep: tuple[str, ...] = ()
        if settings.advise and not failed.issubset(OF_EVIDENCE):
            keep = layers_to_keep(bundle, against, judged, seen, conditions, checks, say, progress)
        entry = _entry(FAILED if failed else PASSED, checks, keep, settings, report, trials)
        return write_entry(bundle, judged, entry)


def observe(against: Path, settings: GateSettings) -> list[RecordedObservation]:
    """Take the observations that `settings` name; raise `EdgeError` or `BuildError`."""
    tag = choose_tag(open_bundle(against).tags, settings.norm_tag)
    sampling = Sampling(settings.samples, seed=settings.seed)
    return list(
        recorded_observations(settings.episodes, tag, sampling, embodiment=settings.embodiment)
    )


def _trials(
    bundle: Path,
    against: Path,
    settings: GateSettings,
    report: OpenLoopReport,
    progress: Callable[[int, int], object],
) -> ClosedLoopReport:
    from sim.rollout import RolloutSettings, draw_trials

    rollout = RolloutSettings(depth=report.depth, norm_tag=report.norm_tag)
    return measure_closed_loop(
        *(Runner(path, rollout, report.actions) for path in (bundle, against)),
        draw_trials(settings.trials, settings.seed),
        rollout,
        workers=settings.workers,
        journal=settings.journal,
        spread=False,
        progress=progress,
    )


def _entry(
    verdict: str,
    checks: dict[str, GateCheck],
    keep: tuple[str, ...],
    settings: GateSettings,
    report: OpenLoopReport,
    trials: ClosedLoopReport | None,
) -> GateEntry:
    sim = settings.episodes == SIM
    return GateEntry(
        verdict=verdict,
        checks=checks,
        figures=_figures(report, trials),
        actions=report.actions,
        depth=report.depth,
        norm_tag=report.norm_tag,
        episodes=SIM if sim else Path(settings.episodes).resolve().name,
        fingerprint="" if sim else _fingerprint(Path(settings.episodes)),
        seed=settings.seed,
        observations=report.observations,
        trials=settings.trials,
        source_sha256=report.bundle.source_sha256,
        machine=machine_name(),
        judged_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        judged_by=f"molmoact-edge {importlib.metadata.version('molmoact-edge')}",
        keep=keep,
        sha256="",
    )


def _figures(report: OpenLoopReport, trials: ClosedLoopReport | None) -> dict[str, float]:
    """Flatten what was measured; what is unknown is left out."""
    figures: dict[str, float | None] = {}
    if report.tip_mm is not None:
        figures["tip_max_mm"] = report.tip_mm.error.max
        figures["tip_spread_mean_mm"] = report.tip_mm.spread.mean
        figures["tip_spread_p95_mm"] = report.tip_mm.spread.p95
    for joint in report.joints:
        for what in ("mean", "p95", "max"):
            figures[f"{joint.name}_{what} ({joint.unit})"] = getattr(joint.error, what)
        figures[f"{joint.name}_spread_mean ({joint.unit})"] = joint.spread.mean
    figures["depth_agreement"] = report.depth_codes_equal
    figures["gripper_flip_agreement"] = report.gripper and report.gripper.agreement
    if report.seam_velocity is not None:
        figures["seam_velocity_mean_deg_s"] = report.seam_velocity.bundle.mean
        figures["full_seam_velocity_mean_deg_s"] = report.seam_velocity.against.mean
    if trials is not None:
        ours, full = trials.figures, trials.against_figures
        figures["success_percent"] = 100 * ours.success.share
        figures["success_low_percent"] = 100 * ours.success.low
        figures["success_high_percent"] = 100 * ours.success.high
        figures["only_full_succeeded"] = trials.difference.only_second
        figures["only_bundle_succeeded"] = trials.difference.only_first
        figures["named_cube_percent"] = ours.named and 100 * ours.named.share
        figures["full_named_cube_percent"] = full.named and 100 * full.named.share
        for kind, share in ours.by_kind.items():
            figures[f"{kind}_success_percent"] = 100 * share.share
            figures[f"full_{kind}_success_percent"] = 100 * full.by_kind[kind].share
    return {name: float(value) for name, value in figures.items() if value is not None}


def _fingerprint(folder: Path) -> str:
    from training.trainer.inputs import fingerprint

    return fingerprint(folder)
