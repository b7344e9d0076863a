"""Compares two profiles of one machine and one bundle: what became slower, beyond the noise.

    molmoact-bench compare before after --fail-over 5

A quantity is worse when even the lower end of its interval (see `benchmarks.repeat_spread`) is more
than `fail_over` percent up, and the difference is one that matters. Intervals are widened for the
number of quantities, so that all of them together raise a false alarm in one comparison of twenty
at most (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.errors import ProfileBenchError
from benchmarks.repeat_spread import FEWEST_REPEATS, ratio_of_medians
from edge.errors import shown

FAIL_OVER_PERCENT = 5.0
ALARM_SHARE = 0.05  # of comparisons without any change, over all quantities
# Least differences that matter: shares of a whole call, and of a tick.
CALL_SHARE, TICK_SHARE = 0.005, 0.01
# And in percent of a loop's ticks: those that were missed, and those in which the arm was held.
MISSED_PERCENT, HELD_PERCENT = 1.0, 5.0
VERDICTS = WORSE, BETTER, SAME, UNCLEAR, NOT_JUDGED = (
    "worse",
    "better",
    "same",
    "unclear",
    "not judged",
)
ACROSS = ("machine", "mode", "bundle", "profile")
_MIB_IN_GIB = 1024


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing that both reports measured; less is better."""

    name: str
    unit: str
    before: list[float]
    after: list[float]
    least: float  # difference of medians that matters
    has_spread: bool = True  # False: one figure each, judged by percent alone


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one quantity."""

    name: str
    unit: str
    before: float
    after: float
    percent: float | None  # of the change; None where the first median is 0
    low_percent: float | None  # ends of its interval
    high_percent: float | None
    verdict: str
    note: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything `print_comparison` prints, and the JSON line."""

    machine: dict[str, str]  # by side
    differs: list[str]  # software and settings that are not the same
    cautions: list[str]
    fail_over_percent: float
    confidence: float  # of each interval
    changes: list[Change]

    @property
    def worse(self) -> list[Change]:
        """The regressions."""
        return [change for change in self.changes if change.verdict == WORSE]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {"bench": "compare", "regressions": len(self.worse), **asdict(self)}


def compare_reports(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    fail_over_percent: float = FAIL_OVER_PERCENT,
    across: Collection[str] = (),
) -> Comparison:
    """Compare two decoded report.json; `ProfileBenchError` when they are not of the same.

    `across` names, of ACROSS, what may differ all the same.
    """
    try:
        _refuse_others(before, after, across)
        quantities = quantities_of(before, after)
        confidence = 1 - ALARM_SHARE / max(sum(q.has_spread for q in quantities), 1)
        return Comparison(
            machine={"before": _machine_text(before), "after": _machine_text(after)},
            differs=_differences(before, after),
            cautions=_cautions(before, after),
            fail_over_percent=fail_over_percent,
            confidence=confidence,
            changes=[_change(q, fail_over_percent, confidence) for q in quantities],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ProfileBenchError(
            f"a report is not as 'molmoact-bench profile' writes it ({type(error).__name__}: "
            f"{shown(str(error))}); profile again"
        ) from None


def quantities_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Quantity]:
    """List what both measured, at the same settings."""
    found = []
    rows = {_setting(row): row for row in after["stages"]}
    for row in before["stages"]:
        other = rows.get(_setting(row))
        if other is None:
            continue
        least = CALL_SHARE * float(np.median(row["repeats_ms"]["call"]))
        for stage, repeats in row["repeats_ms"].items():
            if stage == "depth" and row["changed_percent"] is None:
                continue  # nothing but the clock's own time
            name = f"{stage}, {_depth(row)}"
            found.append(Quantity(name, "ms", repeats, other["repeats_ms"][stage], least))
    found += _loop_quantities(before, after)
    windows = [report["energy"]["windows_mj"] for report in (before, after)]
    if all(windows):
        found.append(Quantity("energy of an action", "mJ", *windows, 0.0))
    for phase, part in before["memory"].items():
        if phase in after["memory"]:
            own = [part["anon_mib"]], [after["memory"][phase]["anon_mib"]]
            found.append(Quantity(f"own memory, {phase}", "MiB", *own, 0.0, has_spread=False))
    return [quantity for quantity in found if max(quantity.before + quantity.after) > 0]


def _loop_quantities(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Quantity]:
    setting = _loop_setting(before)
    if setting is None or setting != _loop_setting(after):
        return []
    least = TICK_SHARE * 1e3 / before["loop"]["row"]["control_hz"]
    others = after["loop"]["repeats"]
    found = [
        Quantity(f"{name}, loop", "ms", repeats, others[name], least)
        for name, repeats in before["loop"]["repeats"].items()
        if repeats and others.get(name)
    ]
    return found + _loop_figures([before["loop"], after["loop"]])


def _loop_figures(loops: Sequence[Mapping[str, Any]]) -> list[Quantity]:
    """List what a loop has one figure of, without which one that hardly ran would pass as fast."""
    rows = [loop["row"] for loop in loops]
    calls = [max(row["policy_calls"], 1) for row in rows]
    ticks = [max(row["ticks"] + row["missed"], 1) for row in rows]
    missed = [100.0 * row["missed"] / count for row, count in zip(rows, ticks, strict=True)]
    held = [100.0 * row["held"] / count for row, count in zip(rows, ticks, strict=True)]
    period_s = [loop["seconds"] / count for loop, count in zip(loops, calls, strict=True)]
    figures = (
        ("stops of the loop", "times", [float(bool(loop.get("stopped"))) for loop in loops], 0.0),
        ("ticks missed, loop", "%", missed, MISSED_PERCENT),
        ("ticks held, loop", "%", held, HELD_PERCENT),
        # A call more or less is chance.
        ("from call to call, loop", "s", period_s, 2.0 * min(period_s) / max(calls)),
    )
    return [
        Quantity(name, unit, [first], [second], least, has_spread=False)
        for name, unit, (first, second), least in figures
    ]


def _change(quantity: Quantity, fail_over_percent: float, confidence: float) -> Change:
    before, after = float(np.median(quantity.before)), float(np.median(quantity.after))
    limit = 1 + fail_over_percent / 100
    low = high = None
    note = ""
    if quantity.has_spread:
        ratio = ratio_of_medians(quantity.before, quantity.after, confidence)
        if ratio is not None:
            low, high = ratio.low, ratio.high
            verdict = _verdict(low, high, limit)
        else:
            verdict = NOT_JUDGED
            note = f"fewer than {FEWEST_REPEATS} repeats" if before > 0 else "was 0 before"
    else:
        share = after / before if before > 0 else np.inf
        verdict, note = _verdict(share, share, limit), "one figure each, no spread known"
    if verdict in (WORSE, BETTER) and abs(after - before) < quantity.least:
        verdict, note = SAME, f"less than {quantity.least:.2g} {quantity.unit} apart"
    return Change(
        name=quantity.name,
        unit=quantity.unit,
        before=round(before, 4),
        after=round(after, 4),
        percent=_percent(after / before) if before > 0 else None,
        low_percent=None if low is None else _percent(low),
        high_percent=None if high is None else _percent(high),
        verdict=verdict,
        note=note,
    )


def _verdict(low: float, high: float, limit: float) -> str:
    if low > limit:
        return WORSE
    if high < 1 / limit:
        return BETTER
    return SAME if high <= limit and low >= 1 / limit else UNCLEAR


def _refuse_others(
    before: Mapping[str, Any], after: Mapping[str, Any], across: Collection[str]
) -> None:
    sides = {
        "machine": [_machine_text(report) for report in (before, after)],
        "mode": [report["machine"]["power_mode"] for report in (before, after)],
        "bundle": [report["bundle"]["files_sha256"] for report in (before, after)],
        "profile": [report["profile"]["name"] for report in (before, after)],
    }
    for what, (first, second) in sides.items():
        if first != second and what not in across:
            raise ProfileBenchError(
                f"the reports are of another {what}: {shown(first, 80)} and {shown(second, 80)}; "
                f"their difference is no regression. To compare all the same: --across {what}"
            )


def _machine_text(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    memory = machine["memory_mib"]
    size = "unknown memory" if memory is None else f"{round(memory / _MIB_IN_GIB)} GiB"
    names = ", ".join(dict.fromkeys((machine["name"], machine["cpu"])))
    return f"{names}, {machine['cores']} cores, {size}"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    keys = ("commit", "onnxruntime", "python", "kernel", "jetpack", "active_sms")
    pairs = [(key, before["machine"][key], after["machine"][key]) for key in keys]
    pairs += [
        (key, before["bundle"][key], after["bundle"][key]) for key in ("recipe", "files_sha256")
    ]
    pairs += [
        (f"profile's {key}", value, after["profile"][key])
        for key, value in before["profile"].items()
    ]
    return [f"{name}: {first} and {second}" for name, first, second in pairs if first != second]


def _cautions(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = []
    for side, report in (("first", before), ("second", after)):
        if report["board"]["throttled"]:
            reasons = "; ".join(report["board"]["throttle_reasons"])
            found.append(f"the board was throttled in the {side} profile: {reasons}")
        stopped = report["loop"] and report["loop"].get("stopped")
        if stopped:
            found.append(f"the loop was stopped in the {side} profile: {stopped}")
        if report["labels"]["foreign"]:
            found.append(f"{side} profile: {report['labels']['foreign']}")
    settings = [{_setting(row) for row in report["stages"]} for report in (before, after)]
    if settings[0] != settings[1]:
        found.append("not every setting of the stages was measured in both")
    if _loop_setting(before) != _loop_setting(after):
        found.append(
            "the loops are not compared: rate, depth, task or servos differ, or one did not run"
        )
    return found


def _setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["cameras"], row["changed_percent"], row["horizon"]


def _loop_setting(report: Mapping[str, Any]) -> tuple[Any, ...] | None:
    loop = report["loop"]
    if loop is None:
        return None
    return loop["row"]["control_hz"], loop["depth"], loop["task"], report["labels"]["servos"]


def _depth(row: Mapping[str, Any]) -> str:
    share = row["changed_percent"]
    return "no depth" if share is None else f"{share} % changed"


def _percent(ratio: float) -> float:
    return round((ratio - 1) * 100, 2)
