"""Ask the safety gate again about every tick of a black box, with its own profile or another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge.black_box import NOT_ASKED, BlackBoxError
from edge.box_reader import RecordedBox
from edge.profile import Profile
from edge.profile_record import profile_from_record
from edge.replay import verdict_text
from edge.safety import Outcome, SafetyGate, TickAges, Verdict

MOST_LISTED = 20
UNKNOWN_REASON = "nothing to follow (from a black box)"


@dataclass(frozen=True, slots=True)
class RecordedReading:
    """What a row says that the servos said."""

    t_s: float
    positions: np.ndarray
    velocities: np.ndarray
    loads: np.ndarray
    currents_ma: np.ndarray
    voltages_v: np.ndarray
    temperatures_c: np.ndarray
    status: np.ndarray


def recorded_profile(box: RecordedBox) -> Profile:
    """Return the profile that the run had; ProfileError when this version cannot read it."""
    return profile_from_record(box.card.get("profile_values"), str(box.path))


def rerun_gate(box: RecordedBox, profile: Profile) -> dict[str, Any]:
    """Judge every recorded tick again and return where the verdicts differ, as plain values.

    A box that does not begin with the first tick of its run begins with a gate that has seen
    nothing: its first recorded goal is taken as given, and the start gate is left out.
    """
    _check_fit(box, profile)
    rows = box.view.rows()
    rows = rows[rows["outcome"] != NOT_ASKED]
    from_start = not len(rows) or box.view.n_ticks <= box.view.layout.capacity
    gate = SafetyGate(profile if from_start else replace(profile, start_gate_deg=360.0))
    if not from_start:
        written = rows[0]["written"]
        _ask(gate, rows[0], written if np.isfinite(written).all() else None)
        rows = rows[1:]
    names = tuple(box.card["joints"])
    differences = []
    counts = dict.fromkeys((outcome.name.lower() for outcome in Outcome), 0)
    for row in rows:
        verdict = _ask(gate, row, row["asked"] if row["has_goal"] else None)
        counts[verdict.outcome.name.lower()] += 1
        if not _same(box, row, verdict, names):
            differences.append((row, verdict_text(box, row), _text(verdict)))
    return {
        "profile": profile.name,
        "ticks": len(rows),
        "from_start": from_start,
        "verdicts": counts,
        "n_differences": len(differences),
        "differences": [
            {
                "tick": int(row["number"]),
                "t_s": float(row["t_s"]),
                "recorded": recorded,
                "now": now,
            }
            for row, recorded, now in differences[:MOST_LISTED]
        ],
    }


def format_gate(result: dict[str, Any]) -> str:
    """Lay the comparison out for a terminal."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in result["verdicts"].items())
    lines = [
        "",
        f"gate again     profile {result['profile']}, {result['ticks']} ticks: {counts}",
        f"               {result['n_differences']} verdicts differ from the recorded ones",
    ]
    if not result["from_start"]:
        lines.append("               the first tick of the run is no longer in the box")
    lines += [
        f"  tick {difference['tick']}: {difference['recorded']} -> {difference['now']}"
        for difference in result["differences"]
    ]
    more = result["n_differences"] - len(result["differences"])
    return "\n".join([*lines, *([f"  and {more} more"] if more else [])])


def _check_fit(box: RecordedBox, profile: Profile) -> None:
    joints = [joint.name for joint in profile.arm.joints]
    cameras = len(profile.cameras)
    for what, mine, recorded in (
        ("joints", joints, box.card["joints"]),
        ("cameras", cameras, box.view.layout.n_cameras),
    ):
        if mine != recorded:
            raise BlackBoxError(
                f"{box.path}: recorded with the {what} {recorded}, profile {profile.name} has "
                f"{mine}; give a profile of the same arm"
            )


def _ask(gate: SafetyGate, row: np.void, goal: np.ndarray | None) -> Verdict:
    reading = RecordedReading(
        t_s=float(row["measured_s"]),
        positions=row["present"],
        velocities=row["velocity"],
        loads=row["load"],
        currents_ma=row["current_ma"],
        voltages_v=row["voltage_v"],
        temperatures_c=row["temperature_c"],
        status=row["status"],
    )
    cameras_s = tuple(row["camera_ages_s"].tolist())
    gate.slow_to(float(row["speed_share"]))
    ages = TickAges(float(row["late_s"]), float(row["chunk_age_s"]), cameras_s)
    return gate.check(goal, reading, float(row["checked_s"]), ages, UNKNOWN_REASON)


def _same(box: RecordedBox, row: np.void, verdict: Verdict, names: tuple[str, ...]) -> bool:
    joint = names.index(verdict.joint) if verdict.joint in names else -1
    card = box.card
    same_kind = (
        card["outcomes"][row["outcome"]] == verdict.outcome.name.lower()
        and card["rules"][row["rule"]] == verdict.rule.name.lower()
        and joint == row["joint"]
    )
    if not same_kind or not _equal(row["value"], verdict.value):
        return False
    if not _equal(row["limit"], verdict.limit):
        return False
    goal = np.full(len(names), math.nan) if verdict.goal is None else verdict.goal
    return bool(np.array_equal(row["written"], goal, equal_nan=True))


def _equal(recorded: float, now: float) -> bool:
    return recorded == now or (math.isnan(recorded) and math.isnan(now))


def _text(verdict: Verdict) -> str:
    name = verdict.outcome.name.lower()
    return f"{name}: {verdict.reason}" if verdict.reason else name
