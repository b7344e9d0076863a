"""Times reading all servos and writing all goals on emulated servos with byte timing.

    molmoact-bench bus

The servos live in a process of their own behind a pseudo-terminal, and their replies take the time
of their bytes at 1 Mbit/s. Every way takes turns with the others, back to back within a turn, so
that a way also waits for the bytes it wrote. The wire's own limit is counted from the bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bus_emulator import emulated_bus
from benchmarks.bus_ways import Way, lerobot_ways, our_ways, wire_bytes
from edge.report import machine_name
from firmware_bridge.transport import DEFAULT_BAUD_RATE

BITS_PER_BYTE = 10
WARM_UP_CYCLES = 20
# (servos on a bus, buses): one arm, as many on one bus as two arms have, two arms on two ports.
LAYOUTS = ((6, 1), (12, 1), (6, 2))
TURNS = 5


@dataclass(frozen=True, slots=True)
class BusRow:
    """One way on one layout; times in milliseconds."""

    way: str
    servos: int
    buses: int
    wire_bytes: int  # on each bus
    wire_ms: float
    cycles: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    jitter_ms: float  # p99 minus p50
    cpu_ms: float  # of this process, a cycle


@dataclass(frozen=True, slots=True)
class BusReport:
    """Everything `print_bus` prints, and the JSON line."""

    machine: str
    baud_rate: int
    turns: int
    lerobot: bool
    rows: list[BusRow]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"bench": "bus", "servos": "emulated", **asdict(self)}


def measure_bus(cycles: int, tell: Callable[[str], None]) -> BusReport:
    """Measure `cycles` cycles of every way on every layout; BusBenchError if it cannot."""
    theirs = lerobot_ways()
    if not theirs:
        tell("LeRobot or feetech-servo-sdk is not installed: measured without")
    rows: list[BusRow] = []
    for servos, buses in LAYOUTS:
        ways = our_ways(servos, buses) + (theirs if buses == 1 else [])
        tell(f"{servos * buses} servos on {buses} bus{'es' * (buses > 1)}")
        rows += _measure_layout(ways, servos, buses, cycles)
    return BusReport(machine_name(), DEFAULT_BAUD_RATE, TURNS, bool(theirs), rows)


def _measure_layout(ways: list[Way], servos: int, buses: int, cycles: int) -> list[BusRow]:
    times_s: dict[str, list[float]] = {way.name: [] for way in ways}
    failed = dict.fromkeys(times_s, 0)
    cpu_s = dict.fromkeys(times_s, 0.0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="molmoact-bench-")))
        ports = [
            stack.enter_context(emulated_bus(folder / f"bus{bus}", servos)) for bus in range(buses)
        ]
        for turn in range(TURNS):
            count = cycles * (turn + 1) // TURNS - cycles * turn // TURNS
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                with way.open(ports, servos) as cycle:
                    _time_turn(way, cycle, WARM_UP_CYCLES)
                    began_s = time.process_time()
                    taken_s, lost = _time_turn(way, cycle, count)
                    cpu_s[way.name] += time.process_time() - began_s
                times_s[way.name] += taken_s
                failed[way.name] += lost
    return [
        _row(way, servos, buses, times_s[way.name], failed[way.name], cpu_s[way.name])
        for way in ways
    ]


def _time_turn(way: Way, cycle: Callable[[], None], count: int) -> tuple[list[float], int]:
    """Return what each cycle that succeeded took, and how many did not."""
    taken_s, failed = [], 0
    for _ in range(count):
        began_s = time.perf_counter()
        try:
            cycle()
        except way.failures:
            failed += 1
            continue
        taken_s.append(time.perf_counter() - began_s)
    return taken_s, failed


def _row(
    way: Way, servos: int, buses: int, taken_s: list[float], failed: int, cpu_s: float
) -> BusRow:
    p50, p99 = np.percentile(taken_s, [50, 99]) * 1e3 if taken_s else (np.nan, np.nan)
    count = wire_bytes(way, servos)
    return BusRow(
        way=way.name,
        servos=servos * buses,
        buses=buses,
        wire_bytes=count,
        wire_ms=count * BITS_PER_BYTE / DEFAULT_BAUD_RATE * 1e3,
        cycles=len(taken_s),
        failed=failed,
        p50_ms=float(p50),
        p99_ms=float(p99),
        max_ms=max(taken_s) * 1e3 if taken_s else float("nan"),
        jitter_ms=float(p99 - p50),
        cpu_ms=cpu_s * 1e3 / max(1, len(taken_s) + failed),
    )
