"""What the gate asks of a bundle: by how much it may differ from full precision at the arm.

Full precision is not one answer: with other noise the same policy goes another way, and any of them
is one that it was trained to give. A bundle whose fingertip is no further from full precision than
full precision is from itself has lost nothing that matters. A policy that is sure of itself hardly
spreads at all; there the arm's own play is the measure: gears of these servos have about 1 degree
(field reports: 0.87 to 1), and half of it is 2.6 mm at a fingertip 0.3 m away.

Trials weigh what such differences lead to. Few trials cannot tell a small loss from luck, so two
things are asked: that the success seen is not much lower, and that trials are enough to rule out,
with 95 % confidence, that it is much lower. Where full precision fails as well, trials show
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.gate_entry import GateCheck
from quantization.errors import BuildError

if TYPE_CHECKING:
    from quantization.fidelity.report import Amount, OpenLoopReport
    from quantization.fidelity.shares import PairedDifference

TIP_PLAY_MM = 2.6  # half of the gears' play, at the fingertip
TIP_PLAY_P95_MM = 2 * TIP_PLAY_MM
JOINT_PLAY_SHARE = 0.01  # of a joint's range, for arms whose fingertip is not known
OBSERVATIONS = 20.0
GRIPPER_AGREEMENT = 0.98
UNDECODABLE_SHARE = 0.02
DROP_POINTS, DROP_BOUND_POINTS = 4.0, 10.0
FULL_SUCCESS_PERCENT = 50.0


@dataclass(frozen=True, slots=True)
class LimitKind:
    """One thing that can be asked."""

    default: str  # in words
    at_least: bool
    most: float  # the largest limit that makes sense; the smallest is 0
    by_trials: bool = False


LIMITS: dict[str, LimitKind] = {
    "observations": LimitKind(f"{OBSERVATIONS:g}, to say anything by", True, 1e6),
    "tip_mean_mm": LimitKind(
        f"full precision's own spread, or {TIP_PLAY_MM:g} where it is less", False, 1e4
    ),
    "tip_p95_mm": LimitKind(
        f"full precision's own spread, or {TIP_PLAY_P95_MM:g} where it is less", False, 1e4
    ),
    "joint_mean_share": LimitKind(
        f"for other arms: full precision's own spread, or {JOINT_PLAY_SHARE:g}", False, 1.0
    ),
    "gripper_agreement": LimitKind(
        f"full precision's with itself, or {GRIPPER_AGREEMENT:g} where it is more", True, 1.0
    ),
    "depth_agreement": LimitKind("not asked; what codes change, the arm shows", True, 1.0),
    "undecodable_share": LimitKind(
        f"{UNDECODABLE_SHARE:g}, of the chunks that full precision wrote", False, 1.0
    ),
    "success_drop_points": LimitKind(f"{DROP_POINTS:g}", False, 100.0, True),
    "success_drop_bound_points": LimitKind(
        f"{DROP_BOUND_POINTS:g}, the drop that the trials cannot rule out", False, 100.0, True
    ),
    "full_success_percent": LimitKind(
        f"{FULL_SUCCESS_PERCENT:g}, of full precision itself", True, 100.0, True
    ),
}


# What says that there is too little to judge by, and nothing of the bundle.
OF_EVIDENCE = ("observations", "success_drop_bound_points", "full_success_percent")


def parse_limit(text: str) -> tuple[str, float]:
    """Read `NAME=VALUE`; raise `BuildError`."""
    name, equals, number = text.partition("=")
    if not equals or name not in LIMITS:
        raise BuildError(
            f"limit {text!r} is not NAME=VALUE with a NAME of {', '.join(LIMITS)}; for example "
            "'tip_mean_mm=3'"
        )
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    most = LIMITS[name].most
    if not 0 <= value <= most:
        raise BuildError(f"limit {text!r}: {number!r} is not a number from 0 to {most:g}")
    return name, value


def check_chosen(chosen: Mapping[str, float], trials: int) -> None:
    """Raise `BuildError` for limits on trials where there are to be none."""
    for name in chosen:
        if LIMITS[name].by_trials and not trials:
            raise BuildError(f"limit {name} is on trials, and there are none; give --trials")


def gate_checks(
    report: OpenLoopReport,
    difference: PairedDifference | None,
    full_success: float | None,
    chosen: Mapping[str, float],
) -> dict[str, GateCheck]:
    """Put what was measured beside what is allowed; `chosen` limits overrule the defaults.

    `difference` is the bundle's success minus that of full precision, `full_success` the latter's
    share; both None without trials. Raises `BuildError` for a limit on what was not measured.
    """
    asked = {"observations": (report.observations, OBSERVATIONS)}  # value, limit
    if report.tip_mm is not None:
        error, spread = report.tip_mm.error, report.tip_mm.spread
        asked["tip_mean_mm"] = error.mean, max(spread.mean, TIP_PLAY_MM)
        asked["tip_p95_mm"] = error.p95, max(spread.p95, TIP_PLAY_P95_MM)
    if report.tip_mm is None or "joint_mean_share" in chosen:
        share: Amount = report.action_share.error
        limit = max(report.action_share.spread.mean, JOINT_PLAY_SHARE)
        asked["joint_mean_share"] = share.mean, limit
    if report.gripper is not None and report.gripper_spread is not None:
        limit = min(report.gripper_spread.sides_equal, GRIPPER_AGREEMENT)
        asked["gripper_agreement"] = report.gripper.sides_equal, limit
    if "depth_agreement" in chosen and report.depth_codes_equal is not None:
        asked["depth_agreement"] = report.depth_codes_equal, 0.0
    if report.undecodable_alone:
        decoded = report.observations + report.undecodable_alone  # by full precision
        asked["undecodable_share"] = report.undecodable_alone / decoded, UNDECODABLE_SHARE
    if difference is not None and full_success is not None:
        asked["success_drop_points"] = -100 * difference.difference, DROP_POINTS
        asked["success_drop_bound_points"] = -100 * difference.low, DROP_BOUND_POINTS
        asked["full_success_percent"] = 100 * full_success, FULL_SUCCESS_PERCENT
    for name in chosen:
        if name not in asked and name != "undecodable_share":
            raise BuildError(f"limit {name} is on what these bundles do not show; leave it out")
    return {
        name: GateCheck(float(value) + 0.0, float(chosen.get(name, limit)), LIMITS[name].at_least)
        for name, (value, limit) in asked.items()
    }
