"""Tell from a black box what a run did, why it ended, and what came before.

Figures over ticks are of those in the box, the newest of the run; verdict counts and missed ticks
are of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from edge.black_box import NOT_ASKED
from edge.box_layout import LINE_END
from edge.box_reader import RecordedBox
from edge.servo_health import fault_text

SCHEMA = "molmoact-edge.replay.v1"
CARD_KEYS = (
    *("started", "machine", "python", "bundle", "recipe", "manifest_sha256", "judged", "profile"),
    *("board", "servos", "task", "depth", "control_hz"),
)
NO_END = "the program ended without saying why; killed, or the machine lost power"


def summarise(box: RecordedBox, last_s: float) -> dict[str, Any]:
    """Collect what a box says as plain values; times in milliseconds, None where there is none."""
    view, card = box.view, box.card
    ticks = view.columns()
    return {
        "schema": SCHEMA,
        "file": str(box.path),
        "card": {key: card.get(key) for key in CARD_KEYS},
        "end": {
            "how": view.text("how") or None,
            "reason": view.text("reason") or None,
            "watchdog": view.text("outside_reason") or None,
            "soft_stop_error": view.text("soft_stop_error") or None,
        },
        "real_time": view.text("real_time").split(LINE_END) if view.text("real_time") else [],
        "ticks": {
            "run": view.n_ticks,
            "kept": len(ticks["t_s"]),
            "missed": view.missed_ticks,
            "read_errors": view.read_errors,
            "write_errors": view.write_errors,
        },
        "spreads_ms": _spreads(ticks, card["cameras"]),
        "verdicts": _verdicts(box),
        "joints": _worst(ticks, card["joints"]),
        "events": [
            {"tick": tick, "s": _rounded(t_s - _start_s(box, ticks)), "text": text}
            for tick, t_s, text in view.events()
        ],
        "last": list(_last_ticks(box, ticks, last_s)),
    }


def format_summary(summary: dict[str, Any]) -> str:
    """Lay a summary out for a terminal."""
    return "\n".join(
        [
            *_card_lines(summary),
            "",
            *_tick_lines(summary),
            "",
            *_verdict_lines(summary["verdicts"]),
            "",
            *_joint_lines(summary["joints"]),
            *_event_lines(summary["events"]),
            *_last_lines(summary["last"]),
        ]
    )


def verdict_text(box: RecordedBox, row: dict[str, Any] | np.void) -> str:
    """Name the verdict of one row: outcome, rule, joint, value and limit."""
    if row["outcome"] == NOT_ASKED:
        return "not asked"
    card = box.card
    words = [card["outcomes"][row["outcome"]]]
    if row["rule"] > 0:
        words.append(card["rules"][row["rule"]])
    if row["joint"] >= 0:
        words.append(card["joints"][row["joint"]])
    if math.isfinite(row["value"]):
        words.append(f"{row['value']:.4g}")
    if math.isfinite(row["limit"]):
        words.append(f"(limit {row['limit']:.4g})")
    return " ".join(words)


def _spreads(ticks: dict[str, np.ndarray], cameras: list[str]) -> dict[str, Any]:
    spreads = {
        "tick lateness": ticks["late_s"],
        "tick": ticks["tick_s"],
        "bus read": ticks["read_s"],
        "safety gate": ticks["decide_s"],
        "bus write": ticks["write_s"],
        "policy call": ticks["policy_s"],
        "chunk age": ticks["chunk_age_s"],
    }
    for index, name in enumerate(cameras):
        spreads[f"{name} picture age"] = ticks["camera_ages_s"][:, index]
    return {name: _spread(values * 1e3) for name, values in spreads.items()}


def _spread(values: np.ndarray) -> dict[str, float] | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    p50, p99 = np.percentile(values, [50, 99])
    return {
        "p50": _rounded(float(p50)),
        "p99": _rounded(float(p99)),
        "max": _rounded(float(values.max())),
    }


def _verdicts(box: RecordedBox) -> dict[str, Any]:
    """Return {outcome: {"count": n, "rules": {rule: {joint or "-": n}}}} of the whole run."""
    card, counts = box.card, box.view.counts
    names = ["-", *card["joints"]]
    return {
        outcome: {
            "count": int(counts[index].sum()),
            "rules": {
                rule: {
                    names[joint]: int(counts[index, number, joint])
                    for joint in np.flatnonzero(counts[index, number])
                }
                for number, rule in enumerate(card["rules"])
                if number and counts[index, number].any()
            },
        }
        for index, outcome in enumerate(card["outcomes"])
    }


def _worst(ticks: dict[str, np.ndarray], joints: list[str]) -> dict[str, dict[str, Any]]:
    """Return the worst values of each joint among the ticks in the box."""
    lead = np.abs(ticks["written"] - ticks["present"])
    values = {
        "lead": _most(lead),
        "load_percent": _most(np.abs(ticks["load"]) * 100.0),
        "current_ma": _most(np.abs(ticks["current_ma"])),
        "temperature_c": _most(ticks["temperature_c"]),
        "least_voltage_v": -_most(-ticks["voltage_v"]),
    }
    faults = np.bitwise_or.reduce(ticks["status"], axis=0)
    return {
        name: {
            **{kind: _rounded(float(column[index])) for kind, column in values.items()},
            "fault_bits": int(faults[index]),
        }
        for index, name in enumerate(joints)
    }


def _most(values: np.ndarray) -> np.ndarray:
    """Return the greatest of each column, nan where a column has no number."""
    known = np.where(np.isfinite(values), values, -math.inf)
    most = known.max(axis=0, initial=-math.inf)
    return np.where(np.isfinite(most), most, math.nan)


def _last_ticks(
    box: RecordedBox, ticks: dict[str, np.ndarray], last_s: float
) -> Iterator[dict[str, Any]]:
    if not len(ticks["t_s"]):
        return
    end_s = ticks["t_s"][-1]
    lead = ticks["written"] - ticks["present"]
    for index in np.flatnonzero(ticks["t_s"] > end_s - last_s):
        row = {name: ticks[name][index] for name in ("outcome", "rule", "joint", "value", "limit")}
        known = np.isfinite(lead[index])
        joint = int(np.argmax(np.where(known, np.abs(lead[index]), -1.0)))
        yield {
            "before_end_s": _rounded(float(end_s - ticks["t_s"][index])),
            "late_ms": _rounded(float(ticks["late_s"][index] * 1e3)),
            "read_failed": bool(ticks["read_failed"][index]),
            "write_failed": bool(ticks["write_failed"][index]),
            "chunk": int(ticks["chunk"][index]),
            "chunk_age_ms": _rounded(float(ticks["chunk_age_s"][index] * 1e3)),
            "verdict": verdict_text(box, row),
            "lead_joint": box.card["joints"][joint] if known.any() else None,
            "lead": _rounded(float(lead[index, joint])) if known.any() else None,
        }


def _start_s(box: RecordedBox, ticks: dict[str, np.ndarray]) -> float:
    """Return when the first tick of the schedule was due, to within one period."""
    if not len(ticks["t_s"]):
        return box.card.get("started_s") or 0.0
    return float(ticks["t_s"][0] - ticks["slot"][0] / box.card["control_hz"])


def _card_lines(summary: dict[str, Any]) -> list[str]:
    card, end = summary["card"], summary["end"]
    lines = [
        f"black box      {summary['file']}",
        f"run            {card['started']}, {card['servos']} servos, measured on "
        f"{card['machine']}, Python {card['python']}",
        f"bundle         {card['bundle']} ({card['recipe']}), profile {card['profile']}, board "
        f"{card['board']}, depth {card['depth']}",
        *([f"judged         the bundle {card['judged']}"] if card["judged"] else []),
        f"task           {card['task']}",
        *(f"real time      {line}" for line in summary["real_time"]),
    ]
    if end["reason"] is not None:
        lines.append(f"ended          {end['how']}: {end['reason']}")
    elif end["watchdog"] is None:
        lines.append(f"ended          {NO_END}")
    if end["watchdog"] is not None:
        lines.append(f"watchdog       {end['watchdog']}")
    if end["soft_stop_error"] is not None:
        lines.append(f"soft stop      {end['soft_stop_error']}")
    return lines


def _tick_lines(summary: dict[str, Any]) -> list[str]:
    ticks = summary["ticks"]
    lines = [
        f"ticks          {ticks['run']} run, {ticks['kept']} of them in the box, "
        f"{ticks['missed']} missed; {ticks['read_errors']} failed reads, "
        f"{ticks['write_errors']} failed writes",
        f"{'':<24}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}",
    ]
    for name, spread in summary["spreads_ms"].items():
        cells = ["-"] * 3 if spread is None else [f"{spread[key]:.2f}" for key in spread]
        lines.append(f"  {name:<22}" + "".join(f"{cell:>10}" for cell in cells))
    return lines


def _verdict_lines(verdicts: dict[str, Any]) -> list[str]:
    listed = ", ".join(f"{verdict['count']} {outcome}" for outcome, verdict in verdicts.items())
    lines = [f"verdicts       {listed}"]
    for outcome, verdict in verdicts.items():
        for rule, joints in verdict["rules"].items():
            names = ", ".join(
                str(count) if joint == "-" else f"{joint} {count}"
                for joint, count in joints.items()
            )
            lines.append(f"  {outcome} {rule:<14}{names}")
    return lines


def _joint_lines(joints: dict[str, dict[str, Any]]) -> list[str]:
    heads = ("lead", "load %", "current mA", "temp C", "least V")
    lines = [f"{'worst values':<15}" + "".join(f"{head:>12}" for head in heads)]
    for name, worst in joints.items():
        *values, faults = worst.values()
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        reported = f"  reported {fault_text(faults)}" if faults else ""
        lines.append(f"{name:<15}" + "".join(f"{cell:>12}" for cell in cells) + reported)
    return lines


def _event_lines(events: list[dict[str, Any]]) -> list[str]:
    if not events:
        return []
    lines = [f"  {event['s']:9.3f} s  tick {event['tick']}: {event['text']}" for event in events]
    return ["", "events", *lines]


def _last_lines(last: list[dict[str, Any]]) -> list[str]:
    if not last:
        return []
    lines = ["", "before the end  late ms  chunk  age ms  greatest lead        verdict"]
    for tick in last:
        marks = [f"{what} failed" for what in ("read", "write") if tick[f"{what}_failed"]]
        lead = "-" if tick["lead"] is None else f"{tick['lead_joint']} {tick['lead']:+.1f}"
        age = "-" if tick["chunk_age_ms"] is None else f"{tick['chunk_age_ms']:.0f}"
        chunk = "-" if tick["chunk"] < 0 else str(tick["chunk"])
        lines.append(
            f"{-tick['before_end_s']:12.3f} s{tick['late_ms']:9.2f}{chunk:>7}{age:>8}  "
            f"{lead:<21}{', '.join([tick['verdict'], *marks])}"
        )
    return lines


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
