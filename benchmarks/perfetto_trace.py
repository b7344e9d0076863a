"""A profile as a trace that ui.perfetto.dev and chrome://tracing open.

The format is Chrome's JSON trace events ("Trace Event Format", the document that
catapult/docs/trace-event-format.md names; that Perfetto reads it says its
docs/getting-started/other-formats.md): one object an event, `ph` its kind, `ts` and `dur` in
microseconds. Written here are complete events (X), which must lie inside each other on one thread,
counters (C), of which Perfetto makes a track for each argument, and names (M). The labels of the
report stand in the process's name and in `otherData`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.profile_run import Profiled
from edge.policy_thread import PolicyCall
from edge.safety import Outcome

PROCESS = 1
CONTROL, POLICY, PHASES = 1, 2, 3
_NS_IN_S, _NS_IN_US = 1e9, 1e3
_TICK_PARTS = {"bus read": "read_s", "safety gate": "decide_s", "bus write": "write_s"}
_NO_OUTCOME = "gate not asked"


def trace_of(profiled: Profiled) -> dict[str, Any]:
    """Return the trace as plain values; its time starts with the measurement."""
    report, began_s = profiled.report, profiled.began_s
    labels = report.labels
    process = f"{labels.times} on {labels.machine}; {labels.servos} servos"
    if labels.foreign:
        process = f"{process}. {labels.foreign}"
    events = [
        _name("process_name", CONTROL, process),
        _name("thread_name", CONTROL, "control"),
        _name("thread_name", POLICY, "policy"),
        _name("thread_name", PHASES, "what was measured"),
    ]
    for phase in profiled.phases:
        events.append(_complete(PHASES, phase.name, phase.began_s, phase.ended_s, began_s, {}))
    if profiled.loop is not None:
        events += _ticks(profiled.loop.ticks, began_s)
        for call in profiled.loop.result.calls:
            events += _call(call, began_s)
    for sample in profiled.samples:
        events += _counters(sample.state, began_s)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "times": labels.times,
            "machine": labels.machine,
            "servos": labels.servos,
            "foreign": labels.foreign or "",
            "profile": report.profile.name,
            "bundle": report.bundle.path,
            "created": report.created,
        },
    }


def _ticks(ticks: dict[str, np.ndarray], began_s: float) -> list[dict[str, Any]]:
    events = []
    for row in range(len(ticks["t_s"])):
        start_s = float(ticks["t_s"][row])
        end_s = start_s + _seconds(ticks["tick_s"][row])
        outcome = int(ticks["outcome"][row])
        about = {
            "late_ms": round(_seconds(ticks["late_s"][row]) * 1e3, 3),
            "gate": Outcome(outcome).name.lower() if outcome >= 0 else _NO_OUTCOME,
            "chunk": int(ticks["chunk"][row]),
        }
        events.append(_complete(CONTROL, "tick", start_s, end_s, began_s, about))
        for part, column in _TICK_PARTS.items():
            stop_s = min(start_s + _seconds(ticks[column][row]), end_s)
            if stop_s > start_s:
                events.append(_complete(CONTROL, part, start_s, stop_s, began_s, {}))
            start_s = stop_s
    return events


def _call(call: PolicyCall, began_s: float) -> list[dict[str, Any]]:
    about = {
        "number": call.number,
        "depth_passes": call.depth_passes,
        "changed_cells": call.changed_cells,
        "prompt_tokens": call.prompt_tokens,
    }
    events = [_complete(POLICY, "call", call.started_s, call.ended_s, began_s, about)]
    start_s = call.started_s
    for stage, seconds in call.stages_s.items():
        stop_s = min(start_s + seconds, call.ended_s)
        if stop_s > start_s:
            events.append(_complete(POLICY, stage, start_s, stop_s, began_s, {}))
        start_s = stop_s
    return events


def _counters(state: Any, began_s: float) -> list[dict[str, Any]]:
    at_us = _us(state.t_s, began_s)
    groups = {
        "temperature, C": state.temperatures_c,
        "clock, MHz": state.clocks_mhz,
        "power, mW": state.power_mw,
        "board": {} if state.throttled is None else {"throttled": int(state.throttled)},
        "memory, MiB": (
            {}
            if state.memory_available_mib is None
            else {"available": round(state.memory_available_mib, 1)}
        ),
    }
    return [
        {"ph": "C", "name": group, "pid": PROCESS, "ts": at_us, "args": dict(values)}
        for group, values in groups.items()
        if values
    ]


def _complete(
    thread: int, name: str, start_s: float, end_s: float, began_s: float, about: dict[str, Any]
) -> dict[str, Any]:
    """Return a complete event; both ends are rounded to nanoseconds, so that parts stay inside."""
    start_us, end_us = _us(start_s, began_s), _us(end_s, began_s)
    return {
        "ph": "X",
        "name": name,
        "pid": PROCESS,
        "tid": thread,
        "ts": start_us,
        "dur": round(end_us - start_us, 3),
        "args": about,
    }


def _name(kind: str, thread: int, text: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": PROCESS, "tid": thread, "args": {"name": text}}


def _us(t_s: float, began_s: float) -> float:
    return round((t_s - began_s) * _NS_IN_S) / _NS_IN_US


def _seconds(value: Any) -> float:
    """Return a column's number; a tick that was cut short has nan."""
    number = float(value)
    return number if number == number and number > 0 else 0.0
