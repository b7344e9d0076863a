"""Run trials in processes of their own, each with a desk and the policies it is given.

A trial is a function of bundle, trial and settings, so it does not matter which process runs it, or
when. Engines use one thread each, whatever the profile says: several processes then do not wait for
one another, and sums do not depend on the machine.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import UndecodableActionsError
from edge.observation import ActionsMode
from edge.policy import Policy
from edge.profile import load_profile
from quantization.fidelity.errors import FidelityError

if TYPE_CHECKING:
    from sim.offline_world import OfflineWorld
    from sim.rollout import RolloutSettings, Trial, TrialResult

UNDECODABLE = "action tokens that mean no chunk"

_world: OfflineWorld | None = None
_policies: dict[tuple[Path, ActionsMode | None], Policy] = {}


@dataclass(frozen=True, slots=True)
class Job:
    """One trial of one bundle."""

    bundle: Path
    actions: ActionsMode | None  # None is what the bundle does by itself
    trial: Trial
    settings: RolloutSettings


def run_jobs(jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, TrialResult]]:
    """Yield results as they come; raise `EdgeError` at the first job that cannot be done."""
    pending = list(jobs)
    if not pending:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(pending)), context, _begin) as pool:
        waiting = {pool.submit(_run, job): job for job in pending}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            raise FidelityError(
                "a process that ran trials ended by itself, perhaps for want of memory; use fewer "
                "with --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # Mesa's software renderer would share every picture among threads, for more work in all.
    os.environ.setdefault("LP_NUM_THREADS", "0")


def _run(job: Job) -> TrialResult:
    from sim.offline_world import OfflineWorld, OfflineWorldError
    from sim.rollout import run_trial

    global _world
    if _world is None:
        _world = OfflineWorld()
    try:
        return run_trial(_world, _policy(job), job.trial, job.settings)
    except UndecodableActionsError:
        return _given_up(job)
    except OfflineWorldError as error:
        raise FidelityError(f"trial {job.trial}: {error}") from None


def _policy(job: Job) -> Policy:
    key = job.bundle, job.actions
    if key not in _policies:
        profile = load_profile("sim")
        profile = replace(profile, board=replace(profile.board, threads=1, draft_window=None))
        _policies[key] = Policy.open(job.bundle, profile, job.actions)
    return _policies[key]


def _given_up(job: Job) -> TrialResult:
    """Count a trial as failed in which the arm had nothing to follow."""
    from sim.rollout import TrialResult

    return TrialResult(
        trial=job.trial,
        succeeded=False,
        done_colour=None,
        time_s=job.settings.limit_s,
        calls=0,
        changed_share=None,
        seam_velocity=None,
        jerk=None,
        clamped_ticks=0,
        stopped=UNDECODABLE,
    )
