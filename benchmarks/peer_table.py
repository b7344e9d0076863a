"""Print a comparison: card, ceiling, each side's stages, the rows that count, one JSON line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.peer import PeerReport
from benchmarks.peer_figures import ScenarioFigures, SideFigures
from benchmarks.peer_rows import GB, SHARE, Cell, Row

_STAGES = ("preprocess", "vision", "prefill", "depth", "expert")
_UNKNOWN = "-"
_TENTHS_FROM_MS = 1000.0
_QUIET_CORES = 0.05


def print_peers(report: PeerReport) -> None:
    """Print everything; a figure that is not known is a dash, and null in the JSON line."""
    _print_card(report)
    for side in report.sides:
        _print_side(side)
    print()
    names = list(report.rows[0].bundles)
    heads = "".join(f"{Path(name).name:>26}" for name in names)
    print(f"{'':<42}{'goal':>10}{'peer':>11}{'':<11}{heads}")
    for row in report.rows:
        peer = f"{_value(row, row.peer_value):>11} {row.peer:<10}"
        cells = "".join(_cell(row, row.bundles[name]) for name in names)
        print(f"{row.name:<42}{_goal(row):>10}{peer}{cells}")
    print("\nx: how many times as much the peer takes; times are medians")
    print(json.dumps(asdict(report)))


def _print_card(report: PeerReport) -> None:
    limit = report.ceiling
    versions = {name: text for side in report.sides for name, text in side.versions.items()}
    print(f"measured on {report.machine}, {report.threads} threads, profile {report.profile}")
    print(", ".join(f"{name} {text}" for name, text in versions.items()))
    print(f"checkpoint {report.checkpoint}, sha256 {report.source_sha256[:16]}")
    print(
        f"{report.cameras} cameras, {report.prompt_tokens} tokens without depth, "
        f"{len(report.changed_cells)} of {report.depth_cells} cells change ({report.place}); "
        f"{report.calls} calls a row after {report.warm_up_calls} warm-up"
    )
    for line in report.left_out:
        print(line)
    print(
        f"\nceiling: reads {limit.read_gb_s:.1f} GB/s, FP32 {limit.fp32_gflop_s:.0f} GFLOP/s, "
        f"INT8 {limit.int8_gop_s:.0f} GOP/s with {limit.threads} threads"
    )


def _print_side(side: SideFigures) -> None:
    seen = side.watched
    print(
        f"\n{side.name} ({side.form}): loaded in {side.load_s:.1f} s, peak RssAnon "
        f"{_mib(seen.peak_rss_anon_mib)}, pages of files {_mib(seen.peak_rss_file_mib)}"
    )
    if seen.others_cores is not None and seen.others_cores > _QUIET_CORES:
        print(f"  other programs kept {seen.others_cores:.2f} cores busy: times may be too long")
    for note in side.notes:
        print(f"  {note}")
    if side.codes_as_lerobot is not None:
        print(f"  {side.codes_as_lerobot:.0%} of the scene's codes are LeRobot's")
    if side.one_token_ms:
        spread = side.one_token_ms
        print(f"  one token {spread.p50:.2f} ms ({spread.min:.2f} .. {spread.max:.2f})")
    if not side.scenarios:
        spread = side.prefill_ms
        print(f"  prefill {spread.p50:.1f} ms ({spread.min:.1f} .. {spread.max:.1f})")
        return
    print(
        f"  {'p50, ms':<37}"
        + "".join(f"{stage:>11}" for stage in _STAGES)
        + f"{'call':>11}{'min .. max':>22}{'depth adds':>12}{'passes':>8}{'moved/asked':>13}"
    )
    for name, figures in side.scenarios.items():
        print(f"  {name:<37}{_scenario(figures)}")


def _mib(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.0f} MiB"


def _scenario(figures: ScenarioFigures) -> str:
    call, adds = figures.call_ms, figures.depth_adds_ms
    moved = _UNKNOWN
    if figures.moved_cells_asked is not None:
        moved = f"{figures.moved_cells:.1f}/{figures.moved_cells_asked}"
    return (
        "".join(f"{figures.stages_ms[stage].p50:>11.1f}" for stage in _STAGES)
        + f"{call.p50:>11.1f}{f'{call.min:.1f} .. {call.max:.1f}':>22}"
        + f"{f'{adds.p50:.1f}' if adds else _UNKNOWN:>12}{figures.depth_passes:>8.1f}{moved:>13}"
    )


def _cell(row: Row, cell: Cell) -> str:
    ratio = _UNKNOWN if cell.ratio is None else f"{cell.ratio:.2f}x"
    met = {True: "met", False: "missed", None: ""}[cell.met]
    return f"{_value(row, cell.value):>11}{'' if row.unit == SHARE else ratio:>8}{met:>7}"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    if row.goal_is_ratio:
        return f">= {row.goal:g}x"
    return f"<= {row.goal:.0%}" if row.unit == SHARE else f"<= {row.goal:g} {row.unit}"


def _value(row: Row, value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    if row.unit == SHARE:
        return f"{value:.1%}"
    if row.unit == GB:
        return f"{value:.2f} GB"
    return f"{value:.2f} ms" if value < _TENTHS_FROM_MS else f"{value:.1f} ms"
