"""Closed loop: what share of seeded trials on the simulated desk a bundle does.

    report = measure_closed_loop("int4", "whole", draw_trials(300, seed=0), RolloutSettings())

Full precision does the same trials, with the same noise, and then once more with other noise: by
how much it then differs from itself is what a bundle may differ by without being worse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.bundle import open_bundle
from edge.manifest import DISCRETE
from edge.normalization import choose_tag
from edge.observation import ActionsMode
from quantization.fidelity.desk import require_desk
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.report import BundleCard, bundle_card
from quantization.fidelity.shares import PairedDifference, Share, paired_difference, share_of
from quantization.fidelity.trial_crew import Job, run_jobs
from quantization.fidelity.trial_journal import TrialJournal, trial_key

if TYPE_CHECKING:
    from sim.rollout import RolloutSettings, Trial, TrialResult

_OTHER_NOISE = 1 << 32  # added to a trial's seed: no drawn seed reaches it


@dataclass(frozen=True, slots=True)
class Runner:
    """One side of a comparison: a bundle and how it is asked."""

    bundle: Path
    settings: RolloutSettings
    actions: ActionsMode | None = None


@dataclass(frozen=True, slots=True)
class TrialFigures:
    """What came of all trials of one bundle."""

    success: Share
    by_kind: dict[str, Share]
    named: Share | None  # of trials that ended with the task done, those with the named cube
    changed_share: float | None  # of depth cells asked again, mean; None without depth
    seam_velocity_deg_s: float | None  # mean over the trials that had a seam
    jerk_deg_s3: float | None  # mean over trials of the RMS; of those in which the arm was driven
    clamped_ticks: float  # mean over trials
    calls: float  # mean over trials
    time_s: float | None  # median of the trials that succeeded
    stopped: dict[str, int]  # trials that the gate ended, by reason


@dataclass(frozen=True, slots=True)
class ClosedLoopReport:
    """Trials of a bundle, beside those of full precision."""

    bundle: BundleCard
    against: BundleCard | None
    settings: RolloutSettings
    against_settings: RolloutSettings | None
    figures: TrialFigures
    against_figures: TrialFigures | None
    other_noise_figures: TrialFigures | None  # full precision with other noise
    difference: PairedDifference | None  # bundle minus full precision
    by_kind_difference: dict[str, PairedDifference]
    spread: PairedDifference | None  # full precision with other noise minus itself


def measure_closed_loop(
    bundle: Path | Runner,
    against: Path | Runner | None,
    trials: Sequence[Trial],
    settings: RolloutSettings,
    *,
    workers: int = 1,
    journal: Path | None = None,
    spread: bool = True,
    progress: Callable[[int, int], object] = lambda done, trials: None,
) -> ClosedLoopReport:
    """Run every trial with each bundle; raise `EdgeError`.

    A `Runner` stands for a bundle that is asked in another way than `settings` say. `journal` keeps
    results, and gives those it has already. Without `spread` full precision is tried once only.
    """
    if not trials:
        raise FidelityError("no trial was given; at least one is needed")
    sides = [
        _resolved(side if isinstance(side, Runner) else Runner(side, settings))
        for side in (bundle, against)
        if side is not None
    ]
    ours, theirs = sides[0][0], sides[1][0] if len(sides) > 1 else None
    todo = [(ours, trials)]
    if theirs is not None:
        todo.append((theirs, trials))
        if spread:
            todo.append(
                (theirs, [replace(trial, seed=trial.seed + _OTHER_NOISE) for trial in trials])
            )
    results = _results(todo, workers, TrialJournal(journal), progress)
    figures = [trial_figures(part) for part in results] + [None] * (3 - len(results))
    return ClosedLoopReport(
        bundle=sides[0][1],
        against=None if theirs is None else sides[1][1],
        settings=ours.settings,
        against_settings=None if theirs is None else theirs.settings,
        figures=figures[0],
        against_figures=figures[1],
        other_noise_figures=figures[2],
        difference=difference_of(results[0], results[1]) if theirs else None,
        by_kind_difference=_by_kind(results[0], results[1]) if theirs else {},
        spread=difference_of(results[2], results[1]) if len(results) > 2 else None,
    )


def _resolved(side: Runner) -> tuple[Runner, BundleCard]:
    """Say by name what the bundle would do by itself: a journal knows results by it."""
    bundle = open_bundle(side.bundle)
    tag = choose_tag(bundle.tags, side.settings.norm_tag)
    actions = side.actions or bundle.manifest.model.actions[0]
    chunking = side.settings.chunking and actions != DISCRETE  # tokens cannot be held
    settings = replace(side.settings, norm_tag=tag.name, chunking=chunking)
    return Runner(side.bundle, settings, actions), bundle_card(bundle)


def trial_figures(results: Sequence[TrialResult]) -> TrialFigures:
    """Sum up the trials of one bundle, at least one."""
    kinds = dict.fromkeys(result.trial.kind for result in results)
    done = [result for result in results if result.done_colour is not None]
    times_s = [result.time_s for result in results if result.succeeded]
    return TrialFigures(
        success=_success(results),
        by_kind={
            kind: _success([result for result in results if result.trial.kind == kind])
            for kind in kinds
        },
        named=_success(done) if done else None,
        changed_share=_mean(results, "changed_share"),
        seam_velocity_deg_s=_mean(results, "seam_velocity"),
        jerk_deg_s3=_mean(results, "jerk"),
        clamped_ticks=_mean(results, "clamped_ticks"),
        calls=_mean(results, "calls"),
        time_s=float(np.median(times_s)) if times_s else None,
        stopped=dict(Counter(result.stopped for result in results if result.stopped)),
    )


def difference_of(first: Sequence[TrialResult], second: Sequence[TrialResult]) -> PairedDifference:
    """Compare two bundles trial by trial; the same trials in the same order."""
    return paired_difference(
        *([result.succeeded for result in results] for results in (first, second))
    )


def _by_kind(
    first: Sequence[TrialResult], second: Sequence[TrialResult]
) -> dict[str, PairedDifference]:
    kinds = dict.fromkeys(result.trial.kind for result in first)
    return {
        kind: difference_of(
            *([result for result in part if result.trial.kind == kind] for part in (first, second))
        )
        for kind in kinds
    }


def _success(results: Sequence[TrialResult]) -> Share:
    return share_of(sum(result.succeeded for result in results), len(results))


def _mean(results: Sequence[TrialResult], name: str) -> float | None:
    """Return the mean over the results that have this figure."""
    values = [getattr(result, name) for result in results]
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def _results(
    todo: list[tuple[Runner, Sequence[Trial]]],
    workers: int,
    journal: TrialJournal,
    progress: Callable[[int, int], object],
) -> list[list[TrialResult]]:
    """Return the results of every side's trials, in order; a trial that two share is run once."""
    jobs = [
        [Job(side.bundle, side.actions, trial, side.settings) for trial in trials]
        for side, trials in todo
    ]
    keys = {
        job: trial_key(job.bundle, job.actions, job.trial, job.settings)
        for part in jobs
        for job in part
    }
    missing = {keys[job]: job for part in jobs for job in part if journal.find(keys[job]) is None}
    total = len(set(keys.values()))
    done = total - len(missing)
    progress(done, total)
    if missing:
        require_desk()
    for job, result in run_jobs(missing.values(), workers):
        journal.note(keys[job], result)
        done += 1
        progress(done, total)
    return [[journal.find(keys[job]) for job in part] for part in jobs]
