"""Prints what a fault campaign found: card, table, what must not be, one JSON line last."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.fault_campaign import CampaignReport
from benchmarks.fault_campaign_kind import KindResult

_COLUMNS = (
    ("ticks", 7),
    ("faults", 7),
    ("noticed", 8),
    ("recovered", 10),
    ("went on", 8),
    ("armed", 6),
    ("mended", 7),
    ("stall ms", 9),
    ("blind ms", 9),
    ("limits", 7),
    ("wrong", 6),
    ("torque", 7),
)


def print_campaign(report: CampaignReport) -> None:
    """Print it all."""
    campaign = report.campaign
    print(f"measured on {report.machine}; servos emulated in memory, on a clock of their own")
    print(
        f"profile {campaign.profile}: {report.control_hz:g} ticks a second; seed {campaign.seed}, "
        f"{sum(row.ticks for row in report.rows)} ticks"
    )
    print("\n" + f"{'fault':<14}" + "".join(f"{name:>{width}}" for name, width in _COLUMNS))
    for row in report.rows:
        print(f"{row.kind:<14}" + _cells(_values(row)))
    print(f"{'all':<14}" + _cells(_totals(report.rows)))
    print(
        "\nnoticed: by driver, gate, loop or arming. recovered: the arm followed goals again; went "
        "on without a stop,\nor armed again after one, or mended: power switched, settings put "
        "back. stall: the longest a tick was on the\nbus; blind: the oldest measurement behind a "
        "goal. Must be 0: commands that broke a limit, wrong readings\naccepted, runs that left "
        "torque on without naming the servo"
    )
    named = sum(row.pushing_and_named for row in report.rows)
    print(
        f"{sum(row.commands for row in report.rows)} commands and "
        f"{sum(row.readings for row in report.rows)} readings judged; {named} servos could not be "
        "reached, kept their torque, and were named"
    )
    _print_programs(report)
    _print_failures(report)
    print(json.dumps(report.as_json()))


def _print_programs(report: CampaignReport) -> None:
    if not report.programs:
        return
    print("\nprograms with watchdogs, on a pseudo-terminal, in real time")
    print(f"{'ended by':<14}{'crashes':>9}{'with torque':>13}{'limp after s':>14}{'torque':>8}")
    for program in report.programs:
        print(
            f"{program.way:<14}{program.crashes:>9}{program.with_torque:>13}"
            f"{program.worst_limp_s:>14.1f}{program.torque_left_on:>8}"
        )


def _print_failures(report: CampaignReport) -> None:
    for row in report.rows:
        if row.counts.lost:
            print(f"{row.kind}: nothing brought the arm back after {row.counts.lost} faults")
        for example in row.examples:
            print(f"{row.kind}: {example}")
    for program in report.programs:
        for example in program.examples:
            print(example)
    print(f"\n{report.failures} failures" if report.failures else "\nno failures")


def _values(row: KindResult) -> tuple[float, ...]:
    counts = row.counts
    return (
        row.ticks,
        counts.struck,
        counts.detected,
        counts.recovered,
        counts.went_on,
        counts.armed_again,
        counts.mended,
        row.worst_tick_ms,
        row.worst_blind_ms,
        row.broken_limits,
        row.wrong_readings,
        row.torque_left_on,
    )


def _totals(rows: Sequence[KindResult]) -> tuple[float, ...]:
    """Add the rows up; of times the worst."""
    columns = list(zip(*map(_values, rows), strict=True))
    worst = {7, 8}
    return tuple(
        max(values) if place in worst else sum(values) for place, values in enumerate(columns)
    )


def _cells(values: Sequence[float]) -> str:
    return "".join(
        f"{value:>{width}.1f}" if isinstance(value, float) else f"{value:>{width}}"
        for value, (_, width) in zip(values, _COLUMNS, strict=True)
    )
