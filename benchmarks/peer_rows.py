"""The comparisons that count: what the project promises, beside what was measured.

A goal is either a ratio to a peer that must be reached, or a figure that must not be passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.peer_figures import SideFigures
from benchmarks.peer_job import ALL_DIFFER as ALL
from benchmarks.peer_job import FIRST_FRAME, NO_DEPTH, STILL
from benchmarks.peer_job import THIRD_DIFFER as THIRD

LEROBOT_SIDE, LLAMA_SIDE = "lerobot", "llama.cpp"
MS, SHARE, GB = "ms", "share of the call", "GB"
_GB_OF_MIB = (1 << 20) / 1e9
_Read = Callable[[SideFigures], "float | None"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One bundle in one row; None where there is nothing to compare."""

    value: float | None
    ratio: float | None  # how many times as much the peer takes
    met: bool | None


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    name: str
    unit: str
    goal: float | None
    goal_is_ratio: bool  # else the bundle's own value may be `goal` at most
    peer: str
    peer_value: float | None
    bundles: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class _Comparison:
    name: str
    unit: str
    goal: float | None  # of a time: the ratio to reach; else the value not to pass
    peer: str
    read: _Read
    read_peer: _Read | None = None  # where the peer's figure is another


def compare(sides: Sequence[SideFigures]) -> list[Row]:
    """Hold every bundle among `sides` against the peers among them."""
    peers = {side.name: side for side in sides if side.name in (LEROBOT_SIDE, LLAMA_SIDE)}
    bundles = [side for side in sides if side.name not in peers]
    rows = []
    for wanted in _comparisons():
        peer = peers.get(wanted.peer)
        peer_value = (wanted.read_peer or wanted.read)(peer) if peer else None
        cells = {side.name: _cell(wanted, wanted.read(side), peer_value) for side in bundles}
        rows.append(
            Row(
                name=wanted.name,
                unit=wanted.unit,
                goal=wanted.goal,
                goal_is_ratio=wanted.unit == MS,
                peer=wanted.peer,
                peer_value=peer_value,
                bundles=cells,
            )
        )
    return rows


def _comparisons() -> list[_Comparison]:
    # To LeRobot it is all one how many of the codes differ, so it was asked once.
    return [
        _Comparison("whole call, first frame", MS, 3.5, LEROBOT_SIDE, _call(FIRST_FRAME)),
        _Comparison("whole call, a third of the codes differ", MS, 3.5, LEROBOT_SIDE, _call(THIRD)),
        _Comparison(
            "whole call, all codes differ", MS, 2.5, LEROBOT_SIDE, _call(ALL), _call(THIRD)
        ),
        _Comparison("what depth adds, a third differ", MS, 10.0, LEROBOT_SIDE, _adds(THIRD)),
        _Comparison("the depth stage, a third differ", MS, 10.0, LEROBOT_SIDE, _depth(THIRD)),
        _Comparison("what depth adds to a still scene", SHARE, 0.2, LEROBOT_SIDE, _still_share),
        _Comparison("whole call, no depth", MS, None, LEROBOT_SIDE, _call(NO_DEPTH)),
        _Comparison("prefill", MS, 1.5, LLAMA_SIDE, _prefill),
        _Comparison("one-token decoding", MS, 1.2, LLAMA_SIDE, _one_token),
        _Comparison("one-token decoding", MS, None, LEROBOT_SIDE, _one_token),
        _Comparison("peak RssAnon", GB, 3.6, LEROBOT_SIDE, _memory),
    ]


def _cell(wanted: _Comparison, value: float | None, peer_value: float | None) -> Cell:
    ratio = peer_value / value if value and peer_value and value > 0 else None
    judged = ratio if wanted.unit == MS else value
    if wanted.goal is None or judged is None:
        return Cell(value, ratio, None)
    return Cell(value, ratio, judged >= wanted.goal if wanted.unit == MS else judged <= wanted.goal)


def _call(scenario: str) -> _Read:
    def read(side: SideFigures) -> float | None:
        figures = side.scenarios.get(scenario)
        return figures.call_ms.p50 if figures else None

    return read


def _adds(scenario: str) -> _Read:
    def read(side: SideFigures) -> float | None:
        figures = side.scenarios.get(scenario)
        return figures.depth_adds_ms.p50 if figures and figures.depth_adds_ms else None

    return read


def _depth(scenario: str) -> _Read:
    def read(side: SideFigures) -> float | None:
        figures = side.scenarios.get(scenario)
        return figures.stages_ms["depth"].p50 if figures else None

    return read


def _still_share(side: SideFigures) -> float | None:
    adds, call = _adds(STILL)(side), _call(STILL)(side)
    return adds / call if adds is not None and call else None


def _prefill(side: SideFigures) -> float | None:
    return side.prefill_ms.p50


def _one_token(side: SideFigures) -> float | None:
    return side.one_token_ms.p50 if side.one_token_ms else None


def _memory(side: SideFigures) -> float | None:
    peak = side.watched.peak_rss_anon_mib
    return None if peak is None else peak * _GB_OF_MIB
