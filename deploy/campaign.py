"""Try every fault on a device that is being flashed, and count the releases lost."""

from __future__ import annotations

import json
import platform
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.campaign_faults import Fault, faults
from deploy.campaign_rig import CampaignRig
from deploy.push import PushResult

LONGEST_DELAY_S = 0.4


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault and what came of it."""

    fault: str
    phase: str
    round: int
    ended: str  # how the push ended
    runs: str  # "old", "new", or what it was
    lost: str  # "" when a complete release runs that says which it is


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """Everything that was tried."""

    first: PushResult
    update: PushResult
    rollback: str
    trials: tuple[Trial, ...]
    conditions: str  # as whom, and on what disk

    @property
    def lost(self) -> int:
        """How often a device was left without a complete release that runs."""
        return sum(1 for trial in self.trials if trial.lost)


def run_campaign(
    folder: Path, rounds: int, only: str | None, say: Callable[[str], None]
) -> CampaignResult:
    """Flash, update, go back, then try every fault `rounds` times.

    The first time it strikes as a phase begins, later a drawn time after that. `only` picks the
    faults whose name holds it.
    """
    rig = CampaignRig(folder)
    try:
        first = rig.push(rig.release())
        update = rig.push(rig.release())
        with rig.connect() as link:
            rollback = link.ask("rollback", settle_s=0.5)["release"]
        trials = []
        for number in range(rounds):
            for fault in faults(has_disk=rig.disk is not None):
                if only is None or only in fault.name:
                    trials.append(_try(rig, fault, number))
                    say(_line(trials[-1]))
        return CampaignResult(first, update, rollback, tuple(trials), rig.conditions)
    finally:
        rig.close()


def format_campaign(result: CampaignResult) -> str:
    """Return the table, and one line of JSON last."""
    lines = [
        f"fault campaign on {platform.machine()}, {platform.system()} {platform.release()}: a real "
        f"sshd on loopback, practice releases, the real agent and supervisor, {result.conditions}",
        f"first flash {result.first.sent_bytes} bytes; update {result.update.sent_bytes} of "
        f"{result.update.total_bytes}; rolled back to {result.rollback}",
        f"{'fault':<32} {'phase':<9} {'tried':>5} {'old runs':>8} {'new runs':>8} {'lost':>5}",
    ]
    rows: dict[tuple[str, str], list[Trial]] = {}
    for trial in result.trials:
        rows.setdefault((trial.fault, trial.phase), []).append(trial)
    for (fault, phase), trials in rows.items():
        runs = Counter(trial.runs for trial in trials)
        lost = sum(1 for trial in trials if trial.lost)
        lines.append(
            f"{fault:<32} {phase:<9} {len(trials):>5} {runs['old']:>8} {runs['new']:>8} {lost:>5}"
        )
    lines.append(f"faults tried {len(result.trials)}, releases lost {result.lost}")
    return "\n".join([*lines, json.dumps(as_json(result))])


def as_json(result: CampaignResult) -> dict[str, Any]:
    """Return a result for other programs."""
    return {
        "machine": platform.machine(),
        "kind": "measured",
        "conditions": result.conditions,
        "first_bytes": result.first.sent_bytes,
        "update_bytes": result.update.sent_bytes,
        "update_total_bytes": result.update.total_bytes,
        "tried": len(result.trials),
        "lost": result.lost,
        "trials": [asdict(trial) for trial in result.trials],
    }


def _try(rig: CampaignRig, fault: Fault, number: int) -> Trial:
    """Strike while a release is pushed, judge, and see that the device takes the next one."""
    before = rig.layout.current_id()
    drawn = random.Random(f"{fault.name} {fault.phase} {number}").uniform(0.0, LONGEST_DELAY_S)
    release, ended = fault.strike(rig, drawn if number else 0.0)
    rig.empty_disk()
    new = release.manifest.id
    allowed = {before, new} if fault.may_take else {before}
    verdict = rig.judge(allowed)
    lost = verdict.lost
    if not lost:
        rig.push(rig.release())
        lost = rig.judge({rig.layout.current_id()}).lost
    runs = {before: "old", new: "new"}.get(verdict.runs, str(verdict.runs))
    return Trial(fault.name, fault.phase, number, ended, runs, lost)


def _line(trial: Trial) -> str:
    outcome = f"LOST: {trial.lost}" if trial.lost else f"{trial.runs} runs"
    return f"{trial.fault}, {trial.phase}: {trial.ended[:110]}; {outcome}"
