"""Turn a finished run into a report: one JSON object, and the table a person reads.

Every figure says where it came from: times were measured on the machine named in `machine`, and
`servos` says whether the servos were real or emulated.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.black_box import BlackBox
from edge.box_layout import LINE_END, POLICY_STAGES
from edge.errors import EdgeError
from edge.loop import LoopEnd
from edge.policy_thread import PolicyCall
from edge.safety import Outcome, Rule
from edge.seams import seam_jumps

SCHEMA = "molmoact-edge.run.v1"
SERVOS_EMULATED = "emulated"
SERVOS_REAL = "real"


class ReportError(EdgeError):
    """A report that cannot be written where it was asked for."""


@dataclass(frozen=True, slots=True)
class RunCard:
    """What was run, where and on what."""

    machine: str
    python: str
    bundle: str
    recipe: str
    source_sha256: str
    profile: str
    board: str
    servos: str
    task: str
    depth: str
    actions: str  # continuous or discrete
    control_hz: float
    judged: str  # how the bundle was judged against full precision


def machine_name() -> str:
    """Name this computer by its processor or board model and its cores."""
    model = _first_line("/proc/device-tree/model") or _cpu_model() or platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model or platform.machine()}, {cores} cores, {platform.machine()}"


def build_report(
    card: RunCard,
    end: LoopEnd,
    box: BlackBox,
    calls: Sequence[PolicyCall],
    world: dict[str, Any] | None,
    tasks: list[dict[str, Any]],
) -> dict[str, Any]:
    """Collect the figures of a run; times in milliseconds, None where nothing was measured.

    `tasks` are the records of `edge.task_turns`, in seconds. Spreads over ticks are of
    those still in the black box, counts are of all.
    """
    ticks = box.columns()
    stages = {
        stage: _spread([call.stages_s[stage] for call in calls if stage in call.stages_s])
        for stage in POLICY_STAGES
    }
    clamps = {
        rule.name.lower(): {
            joint: int(count)
            for joint, count in zip(
                box.joint_names, box.counts[Outcome.CLAMP, rule, 1:], strict=True
            )
            if count
        }
        for rule in Rule
        if box.counts[Outcome.CLAMP, rule].any()
    }
    rules = box.counts[[Outcome.HOLD, Outcome.STOP]].sum(axis=(0, 2))
    return {
        "schema": SCHEMA,
        "card": asdict(card),
        "end": {"how": end.how, "reason": end.reason, "soft_stop_error": end.soft_stop_error},
        "tasks": tasks,
        "stages_ms": {
            **stages,
            "policy call": _spread([call.ended_s - call.started_s for call in calls]),
            "bus": _spread(ticks["read_s"] + ticks["write_s"]),
            "bus read": _spread(ticks["read_s"]),
            "bus write": _spread(ticks["write_s"]),
            "safety gate": _spread(ticks["decide_s"]),
            "tick": _spread(ticks["tick_s"]),
            "tick lateness": _spread(ticks["late_s"]),
        },
        "policy": {
            "calls": calls[-1].number + 1 if calls else 0,
            "rate_hz": _rate_hz(calls),
            "prompt_tokens": calls[-1].prompt_tokens if calls else None,
            "depth_passes": _counts([call.depth_passes for call in calls]),
            "changed_cells": _counts([call.changed_cells for call in calls]),
            "moved_cells": _counts([call.moved_cells for call in calls]),
            "held_actions": _counts([call.n_held for call in calls]),
            "seam_gap": _quantiles(np.array([call.seam_gap for call in calls])),
            "seam_jump_per_s": _quantiles(
                seam_jumps(ticks["t_s"] + ticks["read_s"], ticks["asked"], ticks["chunk"])
            ),
            "frame_age_ms": _spread([max(call.frame_ages_s) for call in calls]),
            "state_age_ms": _spread([call.state_age_s for call in calls]),
        },
        "ticks": {
            "run": box.n_ticks,
            "missed": box.missed_ticks,
            "seconds": round((box.n_ticks + box.missed_ticks) / card.control_hz, 3),
            "read_errors": box.read_errors,
            "write_errors": box.write_errors,
        },
        "safety": {
            **{kind.name.lower(): int(box.outcome_counts[kind]) for kind in Outcome},
            "clamps": clamps,
            "holds_and_stops": {r.name.lower(): int(rules[r]) for r in Rule if rules[r]},
        },
        "real_time": box.text("real_time").split(LINE_END) if box.text("real_time") else [],
        "world": world,
    }


def format_report(report: dict[str, Any]) -> str:
    """Lay the report out as text for a terminal."""
    card, ticks, policy = report["card"], report["ticks"], report["policy"]
    safety = report["safety"]
    lines = [
        f"{card['servos']} servos, measured on {card['machine']}",
        f"bundle {card['bundle']} ({card['recipe']}), profile {card['profile']}, "
        f"depth {card['depth']}, {card['actions']} actions, task: {card['task']}",
        f"the bundle {card['judged']}",
        "",
        f"{'stage':<15}{'n':>6}{'p50 ms':>10}{'p95 ms':>10}{'max ms':>10}",
    ]
    for name, spread in report["stages_ms"].items():
        lines.append(f"{name:<15}" + _table_cells(spread))
    lines += [
        "",
        f"policy         {policy['calls']} calls{_rate(policy['rate_hz'])}",
        f"depth passes   {_count_text(policy['depth_passes'])}",
        f"cells changed  {_count_text(policy['changed_cells'])}",
        f"codes moved    {_count_text(policy['moved_cells'])}",
        f"chunk seams    {_seam_text(policy)}",
        f"ticks          {ticks['run']} run, {ticks['missed']} missed, "
        f"{ticks['read_errors']} failed reads, {ticks['write_errors']} failed writes",
        f"safety         {safety['pass']} pass, {safety['clamp']} clamp, {safety['hold']} hold, "
        f"{safety['stop']} stop",
    ]
    for rule, joints in safety["clamps"].items():
        listed = ", ".join(f"{joint} {count}" for joint, count in joints.items())
        lines.append(f"  {rule:<13}{listed}")
    lines += [f"real time      {line}" for line in report["real_time"]]
    lines += _ladder_lines(report.get("ladder"))
    lines += ["", *_task_lines(report["tasks"]), ""]
    if report["world"] is not None:
        cubes = report["world"].get("cubes_in_bin") or []
        lines.append(f"world          cubes in the bin: {', '.join(cubes) or 'none'}")
    soft = report["end"]["soft_stop_error"] or "soft, every servo confirmed torque off"
    lines.append(f"arm            {soft}")
    lines.append(f"ended          {report['end']['reason']}")
    return "\n".join(lines)


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write the report as JSON; an existing file is never overwritten."""
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    except OSError as error:
        raise ReportError(f"{path}: cannot write the report: {error.strerror}") from error


def write_arrays(path: Path, box: BlackBox) -> None:
    """Write every recorded tick as a NumPy .npz archive; never overwrites."""
    try:
        with path.open("xb") as file:
            np.savez(file, joint_names=np.array(box.joint_names), **box.columns())
    except OSError as error:
        raise ReportError(f"{path}: cannot write the arrays: {error.strerror}") from error


def _spread(values_s: Sequence[float] | np.ndarray) -> dict[str, float] | None:
    return _quantiles(np.asarray(values_s, np.float64) * 1e3)


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    p50, p95 = np.percentile(values, [50, 95])
    return {
        "n": len(values),
        "p50": round(float(p50), 4),
        "p95": round(float(p95), 4),
        "max": round(float(values.max()), 4),
    }


def _counts(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "total": int(sum(values)),
        "mean": round(float(np.mean(values)), 3),
        "max": int(max(values)),
    }


def _count_text(counts: dict[str, float] | None) -> str:
    if counts is None:
        return "-"
    return f"{counts['total']} in all, {counts['mean']:.1f} a call, {counts['max']} at most"


def _seam_text(policy: dict[str, Any]) -> str:
    jump, gap = policy["seam_jump_per_s"], policy["seam_gap"]
    if jump is None or gap is None:
        return "-"
    return (
        f"{jump['n']}, goal velocity jumps {jump['p50']:.0f}/s (p50), {jump['max']:.0f}/s (max); "
        f"gap blended away {gap['p50']:.2f} (p50), {gap['max']:.2f} (max)"
    )


def _ladder_lines(ladder: dict[str, Any] | None) -> list[str]:
    if ladder is None:
        return []
    lines = [f"ladder         level {ladder['level']} of {len(ladder['rungs'])} at the end"]
    lines += [
        f"  {step['at_s']:9.1f} s  {'down' if step['to_level'] > step['from_level'] else 'up'} to "
        f"level {step['to_level']} ({step['rung']}): {step['reason']}"
        for step in ladder["steps"]
    ]
    left_out = [*ladder["left_out"], *([ladder["problem"]] if ladder["problem"] else [])]
    return lines + [f"  {line}" for line in left_out]


def _task_lines(tasks: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len("task"), *(len(task["task"]) for task in tasks))
    lines = [f"{'task':<{width}}{'from s':>10}{'took s':>10}  {'ended':<11}done"]
    for task in tasks:
        times = "".join(
            f"{'-' if task[key] is None else format(task[key], '.1f'):>10}"
            for key in ("began_s", "seconds")
        )
        ended = task["ended"] or "not begun"
        lines.append(f"{task['task']:<{width}}{times}  {ended:<11}{_done_text(task)}")
    judged = [task["succeeded"] for task in tasks if task["succeeded"] is not None]
    if judged:
        lines.append(f"{sum(judged)} of {len(tasks)} done, as the simulator's physics has it")
    return lines


def _done_text(task: dict[str, Any]) -> str:
    if task["succeeded"]:
        return f"yes, after {task['done_after_s']:.1f} s"
    verdict = "not judged" if task["succeeded"] is None else "no"
    return f"{verdict}: {task['note']}" if task["note"] else verdict


def _table_cells(spread: dict[str, float] | None) -> str:
    if spread is None:
        return f"{'-':>6}" + f"{'-':>10}" * 3
    return f"{spread['n']:>6}" + "".join(f"{spread[key]:>10.2f}" for key in ("p50", "p95", "max"))


def _rate(rate_hz: float | None) -> str:
    return "" if rate_hz is None else f", {rate_hz:.2f} a second"


def _rate_hz(calls: Sequence[PolicyCall]) -> float | None:
    if len(calls) < 2:
        return None
    return round((len(calls) - 1) / (calls[-1].started_s - calls[0].started_s), 3)


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip("\0\n ")
    except OSError:
        return ""
