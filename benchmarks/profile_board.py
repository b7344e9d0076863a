"""The board's part of a profile: samples as columns, and what was worst in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.board_sampler import Sample
from benchmarks.profile_report import BoardPart, MemoryPart

_MIB = 1 << 20


def board_part(samples: Sequence[Sample], began_s: float) -> BoardPart:
    """Reduce the samples of a measurement that began at `began_s` on time.monotonic."""
    states = [sample.state for sample in samples]
    told = [state.throttled for state in states if state.throttled is not None]
    reasons = dict.fromkeys(state.throttle_reason for state in states if state.throttle_reason)
    events: dict[str, int] = {}
    for state in states:
        for name, count in state.over_current_events.items():
            events[name] = events.get(name, 0) + count
    return BoardPart(
        throttled=any(told) if told else None,
        throttle_reasons=list(reasons),
        over_current_events=events,
        hottest_c=max((s.hottest_c for s in states if s.hottest_c is not None), default=None),
        throttle_c=next((s.throttle_c for s in states if s.throttle_c is not None), None),
        samples=sample_columns(samples, began_s),
    )


def sample_columns(samples: Sequence[Sample], began_s: float) -> dict[str, list[Any]]:
    """Return one list a quantity, as long as there are samples; None where one lacks it."""
    columns: dict[str, list[Any]] = {
        "t_s": [round(sample.state.t_s - began_s, 3) for sample in samples],
        "phase": [sample.phase for sample in samples],
        "throttled": [sample.state.throttled for sample in samples],
        "total_mw": [_rounded(sample.state.total_mw) for sample in samples],
        "cpu_percent": [sample.cpu_percent for sample in samples],
        "available_mib": [_rounded(sample.state.memory_available_mib) for sample in samples],
        "anon_mib": [_rounded(sample.pages.anon / _MIB) for sample in samples],
    }
    for kind in ("temperatures_c", "clocks_mhz", "caps_mhz", "power_mw"):
        names = dict.fromkeys(name for sample in samples for name in getattr(sample.state, kind))
        for name in names:
            values = (getattr(sample.state, kind).get(name) for sample in samples)
            columns[f"{kind}.{name}"] = [_rounded(value) for value in values]
    return columns


def memory_parts(samples: Sequence[Sample], phases: Sequence[str]) -> dict[str, MemoryPart]:
    """Return the most this process had in each phase that was sampled."""
    return {
        phase: _memory([sample for sample in samples if sample.phase == phase])
        for phase in phases
        if any(sample.phase == phase for sample in samples)
    }


def _memory(samples: Sequence[Sample]) -> MemoryPart:
    available = (sample.state.memory_available_mib for sample in samples)
    return MemoryPart(
        anon_mib=max(sample.pages.anon for sample in samples) / _MIB,
        file_mib=max(sample.pages.file for sample in samples) / _MIB,
        swap_mib=max(sample.pages.swap for sample in samples) / _MIB,
        most_mib=max(sample.pages.most for sample in samples) / _MIB,
        system_available_mib=min((mib for mib in available if mib is not None), default=None),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
