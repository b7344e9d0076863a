"""Prints how punctual the control loop was: card, table, one JSON line last."""

from __future__ import annotations

import json

from benchmarks.loop_bench import LoopReport, LoopRow, Spread

_COUNTS = ("ticks", "missed", "no read", "held")
_SPREADS = ("lateness", "tick", "camera to command", "policy call")


def print_loop(report: LoopReport) -> None:
    """Print it all."""
    print(f"measured on {report.machine}; {report.servos} servos")
    print(
        f"bundle {report.bundle} ({report.recipe}), profile {report.profile}, depth "
        f"{report.depth}, {report.seconds:g} s at each rate"
    )
    print("\n" + " " * 6 + "".join(f"{name:>9}" for name in _COUNTS))
    for row in report.rows:
        counts = (row.ticks, row.missed, row.failed_reads, row.held)
        print(f"{row.control_hz:>3g} Hz" + "".join(f"{count:>9}" for count in counts))
    print("\n" + " " * 6 + "".join(f"{name + ', ms':>24}" for name in _SPREADS))
    print(" " * 6 + f"{'p50':>8}{'p99':>8}{'max':>8}" * len(_SPREADS))
    for row in report.rows:
        print(f"{row.control_hz:>3g} Hz" + "".join(map(_cells, _spreads(row))))
    for row in report.rows:
        print(f"\n{row.control_hz:g} Hz ended: {row.ended}")
        for line in row.real_time or ["nothing asked of the operating system"]:
            print(f"  {line}")
    print(
        "\nlateness: a tick's start after its deadline; tick: read, gate and write; camera to "
        "command: from the\npicture behind a goal to that goal on the bus"
    )
    print(json.dumps(report.as_json()))


def _spreads(row: LoopRow) -> tuple[Spread, ...]:
    return row.late_ms, row.tick_ms, row.camera_to_command_ms, row.policy_call_ms


def _cells(spread: Spread) -> str:
    return "".join(
        f"{'-' if value is None else format(value, '.2f'):>8}"
        for value in (spread.p50, spread.p99, spread.max)
    )
