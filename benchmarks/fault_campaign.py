"""Drives an emulated arm with the real loop, arm and safety gate while everything goes wrong.

    molmoact-bench bus --faults all --ticks 100000

A row is an arm of its own that one kind of fault strikes; the last row has all of them, up to three
at once. After each stop the arm is armed again, mended if it must be, and goes on. Time is the
emulator's: nothing waits, and one seed gives the same campaign on every machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

from benchmarks.errors import BusBenchError
from benchmarks.fault_campaign_faults import EVERYTHING, KINDS
from benchmarks.fault_campaign_kind import KindResult, run_kind
from benchmarks.fault_campaign_process import CrashResult, crash_programs
from edge.profile import Profile, load_profile
from edge.report import machine_name
from edge.safety import SafetyGate

ALL = "all"
FEWEST_TICKS = 30  # of a row: a second
EVERYTHING_WEIGHT = 5
N_JOINTS = 6


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be run; `crashes` programs are killed each way."""

    kinds: tuple[str, ...]
    ticks: int
    seed: int
    profile: str
    jobs: int
    crashes: int


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """Everything `print_campaign` prints, and the JSON line."""

    campaign: Campaign
    machine: str
    control_hz: float
    rows: list[KindResult]
    programs: list[CrashResult]

    @property
    def failures(self) -> int:
        """How often something happened that must not; 0 is what is wanted."""
        return sum(row.failures for row in self.rows) + sum(
            program.torque_left_on for program in self.programs
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "bench": "faults",
            "machine": self.machine,
            "servos": "emulated",
            "clock": "virtual",
            **asdict(self.campaign),
            "control_hz": self.control_hz,
            "rows": [
                {**asdict(row), "recovered": row.counts.recovered, "failures": row.failures}
                for row in self.rows
            ],
            "programs": [asdict(program) for program in self.programs],
            "failures": self.failures,
        }


def run_campaign(
    campaign: Campaign, make_gate: Callable[[Profile], SafetyGate], tell: Callable[[str], None]
) -> CampaignReport:
    """Run every row, in `jobs` processes at a time, then kill programs; EdgeError if it cannot.

    `make_gate` makes the gate that is tested, and is importable by name.
    """
    profile = load_profile(campaign.profile)
    if len(profile.arm.joints) != N_JOINTS:
        raise BusBenchError(
            f"profile {profile.name} has {len(profile.arm.joints)} joints, the emulated arm "
            f"{N_JOINTS}; choose a profile of one arm"
        )
    return CampaignReport(
        campaign=campaign,
        machine=machine_name(),
        control_hz=profile.arm.control_hz,
        rows=_rows(campaign, profile, make_gate, tell),
        programs=(
            crash_programs(
                campaign.crashes, campaign.seed, campaign.profile, profile.arm.watchdog, tell
            )
            if campaign.crashes
            else []
        ),
    )


def chosen_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds that `all`, or a list with commas, names, in the table's order."""
    if text == ALL:
        return KINDS
    asked = text.split(",")
    for kind in asked:
        if kind not in KINDS:
            raise BusBenchError(f"{kind!r} is not a kind of fault; known are {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in asked)


def usable_cores() -> int:
    """Return how many processes can run at a time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _rows(
    campaign: Campaign,
    profile: Profile,
    make_gate: Callable[[Profile], SafetyGate],
    tell: Callable[[str], None],
) -> list[KindResult]:
    shares = _shared_out(campaign.ticks, campaign.kinds)
    jobs = [
        (kind, ticks, campaign.seed * 1000 + KINDS.index(kind), profile, make_gate)
        for kind, ticks in shares.items()
    ]
    if campaign.jobs == 1:
        return [_told(run_kind(*job), tell) for job in jobs]
    with ProcessPoolExecutor(campaign.jobs, mp_context=get_context("spawn")) as pool:
        longest_first = sorted(jobs, key=lambda job: -job[1])
        pending = [pool.submit(run_kind, *job) for job in longest_first]
        done = {result.kind: result for result in _as_told(pending, tell)}
    return [done[kind] for kind in campaign.kinds]


def _as_told(pending: Sequence[Any], tell: Callable[[str], None]) -> list[KindResult]:
    return [_told(future.result(), tell) for future in as_completed(pending)]


def _told(row: KindResult, tell: Callable[[str], None]) -> KindResult:
    tell(f"{row.kind}: {row.ticks} ticks, {row.counts.struck} faults, {row.failures} failures")
    return row


def _shared_out(ticks: int, kinds: Sequence[str]) -> dict[str, int]:
    """Give every row its share, of which none is empty; that of all faults at once is larger."""
    if ticks < FEWEST_TICKS * len(kinds):
        raise BusBenchError(
            f"{ticks} ticks are too few for {len(kinds)} kinds of faults; give at least "
            f"{FEWEST_TICKS * len(kinds)}"
        )
    weights = [EVERYTHING_WEIGHT if kind == EVERYTHING else 1 for kind in kinds]
    ends = [ticks * sum(weights[:place]) // sum(weights) for place in range(len(kinds) + 1)]
    return {
        kind: max(FEWEST_TICKS, end - start)
        for kind, start, end in zip(kinds, ends, ends[1:], strict=False)
    }
