"""Prints a profile: what it is of, the stages, the loop, the board; one JSON line last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.profile_report import HTML_NAME, TRACE_NAME, ProfileReport, as_json

_COLUMNS = ("min", "p50", "p95", "p99", "max")


def print_profile(report: ProfileReport, folder: Path) -> None:
    """Print it; the JSON line is the report without its repeats and samples."""
    labels, machine = report.labels, report.machine
    print(f"{labels.times} on {labels.machine}; {labels.servos} servos")
    if labels.foreign:
        print(f"note: {labels.foreign}")
    print(
        f"bundle {report.bundle.path} ({report.bundle.recipe}), profile {report.profile.name}, "
        f"commit {machine.commit}; loading took {report.load_s:.2f} s"
    )
    for row in report.stages:
        share = row.changed_percent
        depth = "no depth" if share is None else f"{share} % of the depth cells changed"
        print(f"\n{depth}, {row.cameras} cameras, {row.calls} calls{_after(row.note)}")
        print(f"{'stage, ms':<12}" + "".join(f"{name:>10}" for name in _COLUMNS))
        for stage, times in row.stages_ms.items():
            cells = (getattr(times, name) for name in _COLUMNS)
            print(f"{stage:<12}" + "".join(f"{_number(cell):>10}" for cell in cells))
        if row.predicted:
            _print_predicted(row.predicted)
    if report.predicted_reason:
        print(f"\nnothing is predicted: {report.predicted_reason}")
    _print_loop(report)
    _print_board(report)
    print(f"\n{folder / HTML_NAME}; open {folder / TRACE_NAME} at ui.perfetto.dev")
    print(json.dumps({"bench": "profile", **_short(as_json(report))}))


def _print_predicted(predicted: dict[str, Any]) -> None:
    stages = {**predicted["stages_ms"], "call": predicted["call_ms"]}
    listed = ", ".join(f"{stage} {_number(value)}" for stage, value in stages.items())
    print(
        f"predicted for {predicted['board']} ({predicted['unit']}), ms: {listed}; the least sure "
        f"figure behind it is {predicted['kind']}"
    )


def _print_loop(report: ProfileReport) -> None:
    loop = report.loop
    if loop is None:
        print(f"loop: {report.loop_reason}")
        return
    row = loop.row
    print(
        f"loop at {row.control_hz:g} Hz for {loop.seconds:.1f} s: {row.ticks} ticks, {row.missed} "
        f"missed, lateness p50 {_number(row.late_ms.p50)} p99 {_number(row.late_ms.p99)} ms, "
        f"{row.policy_calls} policy calls, {loop.actions} actions; ended: {row.ended}"
    )


def _print_board(report: ProfileReport) -> None:
    board, energy = report.board, report.energy
    told = {True: "throttled", False: "not throttled", None: "throttling not known"}
    reasons = f" ({'; '.join(board.throttle_reasons)})" if board.throttle_reasons else ""
    print(f"board: hottest {_number(board.hottest_c)} C, {told[board.throttled]}{reasons}")
    print(f"energy: {_number(energy.mj_per_action)} mJ an action ({energy.reason})")


def _short(report: dict[str, Any]) -> dict[str, Any]:
    for row in report["stages"]:
        del row["repeats_ms"]
    if report["loop"]:
        del report["loop"]["repeats"]
    del report["board"]["samples"], report["energy"]["windows_mj"]
    return report


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _after(note: str) -> str:
    return f"; {note}" if note else ""
