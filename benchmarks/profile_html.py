"""A profile as one HTML file: readable offline, on light and dark screens, without scripts.

Nothing is loaded from elsewhere: style and pictures are inside. Every text that came from a
machine, a bundle or a profile is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from benchmarks.latency_report import StageTimes
from benchmarks.profile_plots import pictures_of
from benchmarks.profile_report import LoopPart, ProfileReport, StageRow

UNKNOWN = "–"
_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1c2024;--soft:#5b6570;--grid:#b9c0c7;
--panel:#f4f6f8;--warn:#8a4b00;--warnground:#fff3dc}
@media(prefers-color-scheme:dark){:root{--ground:#14181c;--ink:#e4e8ec;--soft:#9aa5b1;
--grid:#4a535c;--panel:#1d2329;--warn:#ffcf87;--warnground:#3a2a10}}
body{background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif;margin:0 auto;
max-width:62rem;padding:1.5rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.4rem 0}.soft{color:var(--soft)}
.warn{background:var(--warnground);color:var(--warn);padding:.7rem 1rem;border-radius:.4rem;
font-weight:600}
table{margin:.5rem 0;border-collapse:collapse;width:100%;background:var(--panel);
border-radius:.4rem}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}
tr:last-child td{border-bottom:0}th:first-child,td:first-child,.text td{text-align:left}
th{color:var(--soft);font-weight:600}td.predicted,th.predicted{font-style:italic}
.wide{overflow-x:auto}svg{max-width:100%;height:auto}
figure{margin:1.5rem 0}figcaption{font-weight:600}
"""
_COLUMNS = ("min", "p50", "p95", "p99", "max")


def html_of(report: ProfileReport) -> str:
    """Return the page."""
    labels = report.labels
    title = f"Profile {report.profile.name} on {labels.machine}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_measured(report))}</p>',
        f'<p class="warn">{escape(_sentence(labels.foreign))}</p>' if labels.foreign else "",
        _warning(report),
        _section("Machine", _pairs(_machine(report))),
        *(_section(_title(row), _stage_table(row)) for row in report.stages),
        f"<p>Nothing is predicted: {escape(report.predicted_reason)}.</p>"
        if report.predicted_reason
        else "",
        _section("Control loop", _loop(report)),
        _section("Board", _pairs(_board(report))),
        _section("Energy", _pairs(_energy(report))),
        _section("Memory of this process", _memory(report)),
        *(_figure(caption, svg) for caption, svg in pictures_of(report).items()),
        f'<p class="soft">made by: {escape(report.command)}</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _measured(report: ProfileReport) -> str:
    labels = report.labels
    return (
        f"Times are {labels.times} on this machine with {labels.servos} servos, "
        f"{report.created}. What is predicted says so."
    )


def _warning(report: ProfileReport) -> str:
    found = []
    if report.board.throttled:
        reasons = "; ".join(report.board.throttle_reasons)
        found.append(f"The board was throttled while it was measured: {reasons}")
    if report.loop and report.loop.stopped:
        found.append(f"The loop was stopped: {report.loop.stopped}")
    return "".join(f'<p class="warn">{escape(line)}</p>' for line in found)


def _machine(report: ProfileReport) -> dict[str, Any]:
    machine, bundle, profile = report.machine, report.bundle, report.profile
    mode = machine.power_mode and f"{machine.power_mode} (id {machine.power_mode_id} on this board)"
    return {
        "board": " ".join(filter(None, (machine.name, machine.part_number))),
        "processor": f"{machine.cpu}, {machine.cores} cores online, {machine.architecture}",
        "memory, MiB": machine.memory_mib,
        "system": f"{machine.system}, kernel {machine.kernel}",
        "Jetson Linux, JetPack": " / ".join(filter(None, (machine.l4t, machine.jetpack))),
        "power mode": mode,
        "SMs of the GPU that are on": machine.active_sms,
        "clocks at the start, MHz": _listed(machine.clocks_mhz),
        "caps, MHz": _listed(machine.caps_mhz),
        "Python, ONNX Runtime": f"{machine.python}, {machine.onnxruntime} "
        f"({', '.join(machine.providers)})",
        "commit": machine.commit,
        "bundle": f"{bundle.path} ({bundle.recipe}, {bundle.mib:g} MiB)",
        "digest of its files": bundle.files_sha256,
        "profile": f"{profile.name}: board {profile.board}, arm {profile.arm}, "
        f"{profile.control_hz:g} Hz",
        "describes": profile.describes,
        "time to load, s": f"{report.load_s:.2f}",
    }


def _title(row: StageRow) -> str:
    depth = (
        "no depth"
        if row.changed_percent is None
        else f"{row.changed_percent} % of depth cells changed"
    )
    return f"Stages, measured: {depth}"


def _stage_table(row: StageRow) -> str:
    predicted = _predicted_ms(row)
    beside = (*_COLUMNS, "predicted") if predicted else _COLUMNS
    lines = [
        [stage, *_times(times), *([_ms(predicted.get(stage))] if predicted else [])]
        for stage, times in row.stages_ms.items()
    ]
    note = (
        f"{row.calls} calls after {row.warm_up_calls} for warm-up, {row.cameras} cameras, "
        f"{row.prompt_tokens} tokens, {row.horizon} actions, {row.depth_passes_mean:.1f} depth "
        f"passes a call. Milliseconds. {row.note} {_predicted_words(row)}"
    )
    return f"<p>{escape(note)}</p>" + _table(("stage", *beside), lines)


def _predicted_ms(row: StageRow) -> dict[str, float]:
    if row.predicted is None:
        return {}
    return {**row.predicted["stages_ms"], "call": row.predicted["call_ms"]}


def _predicted_words(row: StageRow) -> str:
    predicted = row.predicted
    if predicted is None:
        return ""
    return (
        f"Predicted for board {predicted['board']}, {predicted['unit']}, from bytes and "
        f"operations; the least sure figure behind it is {predicted['kind']}."
    )


def _loop(report: ProfileReport) -> str:
    loop = report.loop
    if loop is None:
        return f"<p>Not run: {escape(report.loop_reason)}.</p>"
    return _pairs(_loop_counts(loop)) + _table(
        ("milliseconds", "p50", "p99", "max"),
        [
            [name, _ms(spread.p50), _ms(spread.p99), _ms(spread.max)]
            for name, spread in (
                ("tick starts after its deadline", loop.row.late_ms),
                ("tick: read, gate, write", loop.row.tick_ms),
                ("picture to goal on the bus", loop.row.camera_to_command_ms),
                ("policy call", loop.row.policy_call_ms),
            )
        ],
    )


def _loop_counts(loop: LoopPart) -> dict[str, Any]:
    row = loop.row
    return {
        "ran": f"{loop.seconds:.1f} s at {row.control_hz:g} Hz, depth {loop.depth}: {loop.task}",
        "ticks": f"{row.ticks} run, {row.missed} missed, {row.failed_reads} without a reading, "
        f"{row.held} held",
        "policy calls": row.policy_calls,
        "actions executed": loop.actions,
        "rungs of the ladder in effect, most": loop.ladder_level,
        "real-time settings": "; ".join(row.real_time) or "none asked for",
        "ended": row.ended,
    }


def _board(report: ProfileReport) -> dict[str, Any]:
    board = report.board
    throttled = {True: "yes", False: "no", None: None}[board.throttled]
    return {
        "throttled": throttled,
        "hottest, degrees C": board.hottest_c,
        "throttles at, degrees C": board.throttle_c,
        "over-current events": _listed(board.over_current_events),
        "samples": len(board.samples["t_s"]),
    }


def _energy(report: ProfileReport) -> dict[str, Any]:
    energy = report.energy
    mj = None if energy.mj_per_action is None else f"{energy.mj_per_action:.1f}"
    return {
        "millijoule an action": mj,
        "which is" if mj else "because": energy.reason,
        "power at rest, mW": _ms(energy.idle_mw),
        "power in the loop, mW": _ms(energy.loop_mw),
    }


def _memory(report: ProfileReport) -> str:
    head = ("MiB, most of the samples", "own", "of files", "swapped", "ever", "left on the board")
    return _table(
        head,
        [
            [
                phase,
                *(_ms(v) for v in (part.anon_mib, part.file_mib, part.swap_mib, part.most_mib)),
                _ms(part.system_available_mib),
            ]
            for phase, part in report.memory.items()
        ],
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_shown(value))}</td></tr>"
        for name, value in values.items()
    )
    return f'<div class="wide"><table class="text">{rows}</table></div>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def cells(tag: str, texts: Iterable[str], names: list[str]) -> str:
        return "".join(
            f"<{tag}{_mark(name)}>{escape(text)}</{tag}>"
            for name, text in zip(names, texts, strict=True)
        )

    names = list(head)
    body = "".join(f"<tr>{cells('td', row, names)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", names, names)}</tr>{body}</table></div>'


def _mark(name: str) -> str:
    return ' class="predicted"' if name == "predicted" else ""


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _times(times: StageTimes) -> list[str]:
    return [_ms(getattr(times, column)) for column in _COLUMNS]


def _ms(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.2f}"


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _shown(value: Any) -> str:
    return UNKNOWN if value is None or value == "" else str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
