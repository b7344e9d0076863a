"""Prints bus figures: card, a table for each layout, one JSON line last."""

from __future__ import annotations

import itertools
import json

from benchmarks.bus_timing import BusReport, BusRow

_COLUMNS = ("bytes", "wire ms", "p50 ms", "p99 ms", "max ms", "jitter ms", "cpu ms", "failed")


def print_bus(report: BusReport) -> None:
    """Print it all."""
    print(f"measured on {report.machine}; servos emulated, in a process of their own on a pty")
    print(
        f"read the feedback of all servos and write all goals at {report.baud_rate} baud, back to "
        f"back, {report.turns} turns each"
    )
    if not report.lerobot:
        print("LeRobot or feetech-servo-sdk is not installed: measured without")
    layouts = itertools.groupby(report.rows, key=lambda row: (row.servos, row.buses))
    for (servos, buses), rows in layouts:
        place = "one bus" if buses == 1 else f"{buses} buses at the same time"
        print(f"\n{servos} servos on {place}")
        print(f"{'':<19}" + "".join(f"{name:>10}" for name in _COLUMNS))
        for row in rows:
            print(f"{row.way:<19}" + _cells(row))
    print(
        "\nwire: what the bytes take at this rate, the least there is; bytes alone: the same bytes "
        "with no driver, which\nis what emulator and pty cost; jitter: p99 - p50; cpu: of this "
        "process, for each cycle"
    )
    print(json.dumps(report.as_json()))


def _cells(row: BusRow) -> str:
    times = (row.wire_ms, row.p50_ms, row.p99_ms, row.max_ms, row.jitter_ms, row.cpu_ms)
    cells = "".join(f"{value:>10.2f}" for value in times)
    return f"{row.wire_bytes:>10}{cells}{row.failed:>10}"
