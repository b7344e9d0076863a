"""Print a fidelity report: cards, what the arm would be told, what it did, which layers cost most.

Every figure of the bundle stands beside what full precision differs from itself by with other
noise: below that, nobody could tell the two apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmarks.fidelity import Fidelity, fidelity_json
from edge.ladder_profile import CHANGES
from edge.pace import FULL_PACE, Pace
from quantization.fidelity.closed_loop import ClosedLoopReport, TrialFigures
from quantization.fidelity.flips import FlipAgreement
from quantization.fidelity.report import Amount, BundleCard, OpenLoopReport
from quantization.fidelity.shares import PairedDifference, Share

if TYPE_CHECKING:
    from quantization.fidelity.sensitivity import LayerSensitivity

_MOST_LAYERS = 20
_MIB = 1 << 20
_WIDE, _NUMBER = 20, 9


def print_fidelity(fidelity: Fidelity) -> None:
    """Print everything and, last, one JSON line."""
    print(f"measured on {fidelity.machine}")
    if fidelity.open_loop is not None:
        _print_open_loop(fidelity.open_loop, fidelity.episodes)
    if fidelity.layers:
        _print_layers(fidelity.layers)
    if fidelity.closed_loop is not None:
        _print_closed_loop(fidelity.closed_loop, fidelity.trial_seed)
    print(json.dumps(fidelity_json(fidelity)))


def _print_open_loop(report: OpenLoopReport, episodes: str) -> None:
    _print_cards(report.bundle, report.against)
    print(
        f"open loop: {report.observations} observations of {report.episodes} episodes from "
        f"{episodes}, {report.actions} actions, depth {report.depth}, noise seed {report.seed}"
    )
    if report.undecodable:
        print(f"left out: {report.undecodable} answered with action tokens that mean no chunk")
    print(f"\n{'absolute error':<{_WIDE}}{'':<12}{'bundle':>27}{'other noise':>27}")
    heads = "".join(f"{name:>{_NUMBER}}" for name in ("mean", "p95", "max"))
    print(f"{'':<{_WIDE}}{'':<12}{heads}{heads}")
    for joint in report.joints:
        print(f"{joint.name:<{_WIDE}}{joint.unit:<12}{_row(joint.error)}{_row(joint.spread)}")
    share = report.action_share
    print(
        f"{'of a joint range':<{_WIDE}}{'%':<12}{_row(share.error, 100)}{_row(share.spread, 100)}"
    )
    if report.tip_mm is not None:
        tip = report.tip_mm
        print(f"{'gripper tip':<{_WIDE}}{'mm':<12}{_row(tip.error)}{_row(tip.spread)}")
    print()
    if report.seam_velocity is not None:
        seams = report.seam_velocity
        print("chunk seams, jump of the worst joint's goal velocity, deg/s: mean, p95, max")
        for name, part in (
            ("bundle", seams.bundle),
            ("against", seams.against),
            ("other noise", seams.other_noise),
        ):
            print(f"  {name:<18}{_row(part)}")
    if report.depth_codes_equal is not None:
        print(
            f"depth codes equal: {report.depth_codes_equal:.1%} "
            f"(other noise: {report.depth_codes_equal_spread:.1%})"
        )
    if report.gripper is not None:
        print(f"gripper: {_flips(report.gripper)}\n  other noise: {_flips(report.gripper_spread)}")


def _flips(flips: FlipAgreement) -> str:
    matched = "no flips" if flips.agreement is None else f"{flips.agreement:.1%} of flips matched"
    return (
        f"{matched} ({flips.flips} against {flips.flips_against}), as open or closed in "
        f"{flips.sides_equal:.1%} of actions"
    )


def _print_layers(layers: list[LayerSensitivity]) -> None:
    print("\neach alone in this format, everything else in full precision; most harmful first")
    print(f"{'layer':<40}{'format':<20}{'KiB':>8}{'tip mm':>9}{'range %':>9}{'codes %':>9}")
    for layer in layers[:_MOST_LAYERS]:
        tip = "-" if layer.tip_error_mm is None else f"{layer.tip_error_mm:.3f}"
        codes = "-" if layer.depth_codes_equal is None else f"{100 * layer.depth_codes_equal:.1f}"
        print(
            f"{layer.path:<40}{layer.format:<20}{layer.bytes / 1024:>8.0f}{tip:>9}"
            f"{100 * layer.action_error:>9.3f}{codes:>9}"
        )
    if len(layers) > _MOST_LAYERS:
        print(f"and {len(layers) - _MOST_LAYERS} more in the JSON")


def _print_closed_loop(report: ClosedLoopReport, seed: int | None) -> None:
    print()
    _print_cards(report.bundle, report.against)
    ours, theirs = report.settings, report.against_settings
    print(
        f"closed loop: {report.figures.success.trials} trials on the simulated desk, seed {seed}, "
        f"limit {ours.limit_s:g} s, a call every {ours.replan_s:g} s, {ours.latency_s:g} s late"
    )
    print(f"bundle: {_how(ours.depth, ours.chunking)}{_pace(ours.pace)}", end="; ")
    print(f"against: {_how(theirs.depth, theirs.chunking)}")
    sides = (report.figures, report.against_figures, report.other_noise_figures)
    names = ("bundle", "against", "other noise")
    print(f"\n{'successes, 95 %':<18}{''.join(f'{name:>30}' for name in names)}")
    for kind in report.figures.by_kind:
        print(f"{kind:<18}{''.join(f'{_share(side.by_kind[kind]):>30}' for side in sides)}")
    print(f"{'all':<18}{''.join(f'{_share(side.success):>30}' for side in sides)}")
    print(f"{'with named cube':<18}{''.join(f'{_share(side.named):>30}' for side in sides)}")
    for label, text in _SMOOTHNESS:
        print(f"{label:<18}{''.join(f'{text(side):>30}' for side in sides)}")
    print("\nbundle minus against, the same trials, points")
    for kind, difference in report.by_kind_difference.items():
        print(f"  {kind:<16}{_difference(difference)}")
    print(f"  {'all':<16}{_difference(report.difference)}")
    print(f"  {'other noise':<16}{_difference(report.spread)}")
    for name, side in zip(names, sides, strict=True):
        for reason, count in side.stopped.items():
            print(f"{name}: the arm was stopped in {count} trials: {reason}")


def _how(depth: str, chunking: bool) -> str:
    return f"depth {depth}, real-time chunking {'on' if chunking else 'off'}"


def _pace(pace: Pace) -> str:
    """Name what a ladder's rungs leave of the pace, "" for all of it."""
    values = {**asdict(pace), **asdict(pace.effort)}
    full = {**asdict(FULL_PACE), **asdict(FULL_PACE.effort)}
    changed = [f"{name} {values[name]:g}" for name in CHANGES if values.get(name) != full.get(name)]
    return f", with {', '.join(changed)}" if changed else ""


def _print_cards(bundle: BundleCard, against: BundleCard) -> None:
    for role, card in (("bundle", bundle), ("against", against)):
        print(
            f"{role}: {card.path} ({card.recipe}), {card.size_bytes / _MIB:.1f} MiB, "
            f"checkpoint {card.source_sha256[:12]}"
        )


def _row(part: Amount, factor: float = 1.0) -> str:
    return "".join(f"{factor * value:>{_NUMBER}.3f}" for value in (part.mean, part.p95, part.max))


def _share(share: Share | None) -> str:
    if share is None:
        return "-"
    bounds = f"{100 * share.low:.1f}..{100 * share.high:.1f}"
    return f"{share.count}/{share.trials} {share.share:.1%} ({bounds})"


def _difference(difference: PairedDifference) -> str:
    return (
        f"{100 * difference.difference:+6.1f} ({100 * difference.low:+.1f}.."
        f"{100 * difference.high:+.1f}), only the first {difference.only_first}, only the second "
        f"{difference.only_second} of {difference.trials}, p {difference.p_value:.3f}"
    )


def _figure(name: str, form: str) -> Callable[[TrialFigures], str]:
    def show(side: TrialFigures) -> str:
        value = getattr(side, name)
        return "-" if value is None else format(value, form)

    return show


_SMOOTHNESS = (
    ("seams, deg/s", _figure("seam_velocity_deg_s", ".1f")),
    ("jerk, deg/s3", _figure("jerk_deg_s3", ".0f")),
    ("clamped ticks", _figure("clamped_ticks", ".1f")),
    ("policy calls", _figure("calls", ".1f")),
    ("cells asked again", _figure("changed_share", ".1%")),
    ("median time, s", _figure("time_s", ".1f")),
)
