"""Open loop: a bundle and full precision are shown the same observations, and answers compared.

    report = measure_open_loop("int4", "whole", observations)

Both get the same flow noise. Full precision is asked again with other noise: how far it is from
itself is the yardstick, since either answer is one the trained policy gives. Each keeps the depth
codes of its own earlier frames, as on the robot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from edge.bundle import Bundle
from edge.errors import UndecodableActionsError
from edge.manifest import DISCRETE
from edge.normalization import RobotTag, choose_tag
from edge.observation import ActionsMode, DepthMode
from edge.policy import Policy, PolicyResult
from edge.profile import Profile, load_profile
from quantization.fidelity.episode_seams import episode_seams
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.flips import FlipAgreement, flip_agreement
from quantization.fidelity.observations import RecordedObservation
from quantization.fidelity.report import (
    BesideSpread,
    JointError,
    OpenLoopReport,
    SeamVelocity,
    amount,
    bundle_card,
)
from quantization.fidelity.robot_units import RobotUnits

PROFILE = "sim"
NOISE, OTHER_NOISE = 0, 1


@dataclass(frozen=True, slots=True)
class Conditions:
    """How policies are asked."""

    norm_tag: str | None = None  # needed when the bundle has several
    depth: DepthMode | None = None  # None is incremental where the checkpoint has depth
    actions: ActionsMode | None = None  # None is what full precision does by itself
    seed: int = 0  # of the noise
    profile: str = PROFILE  # engine threads; and the arm: joint frame, rate, tips


@dataclass(frozen=True, slots=True)
class Answers:
    """What one policy said to an episode's observations, in turn; None where it was undecodable."""

    times_s: tuple[float, ...]
    results: tuple[PolicyResult | None, ...]


def measure_open_loop(
    bundle: Path,
    against: Path,
    observations: Iterable[RecordedObservation],
    conditions: Conditions | None = None,
) -> OpenLoopReport:
    """Compare the answers of two bundles of one checkpoint; raise `EdgeError`.

    Observations of an episode follow one another in time; all of it is held in memory at once.
    """
    conditions = conditions or Conditions()
    profile = load_profile(conditions.profile)
    whole = Policy.open(against, profile, conditions.actions)
    small = Policy.open(bundle, profile, whole.actions)
    check_same_source(small.bundle, whole.bundle)
    tag = choose_tag(whole.bundle.tags, conditions.norm_tag)
    played: list[tuple[Answers, Answers, Answers]] = []
    for _, episode in groupby(observations, key=lambda seen: seen.episode):
        seen = list(episode)
        played.append(
            (
                answers(small, seen, conditions),
                answers(whole, seen, conditions),
                answers(whole, seen, conditions, OTHER_NOISE),
            )
        )
    if not played:
        raise FidelityError("no observation was given; record episodes, or give 'sim'")
    return _report(small, whole, tag, profile, conditions, played)


def answers(
    policy: Policy,
    episode: list[RecordedObservation],
    conditions: Conditions,
    draw: int = NOISE,
) -> Answers:
    """Show a policy an episode; the same observation and `draw` have the same noise always."""
    tag = choose_tag(policy.bundle.tags, conditions.norm_tag)
    policy.reset()
    results = tuple(_act(policy, seen, tag, conditions, draw) for seen in episode)
    return Answers(tuple(seen.t_s for seen in episode), results)


def check_same_source(small: Bundle, whole: Bundle) -> None:
    """Raise `FidelityError` unless both bundles were built from one checkpoint."""
    if small.manifest.source.sha256 != whole.manifest.source.sha256:
        raise FidelityError(
            f"{small.path} and {whole.path} come from different checkpoints; build both from one"
        )


def depth_mode(policy: Policy, conditions: Conditions) -> DepthMode:
    """Return how depth is asked for."""
    return conditions.depth or policy.bundle.manifest.model.usual_depth


def _act(
    policy: Policy,
    seen: RecordedObservation,
    tag: RobotTag,
    conditions: Conditions,
    draw: int,
) -> PolicyResult | None:
    noise = None
    if policy.actions != DISCRETE:
        shape = (1, tag.action_horizon, policy.bundle.manifest.model.max_action_dim)
        key = (conditions.seed, seen.episode, round(1e3 * seen.t_s), draw)
        noise = np.random.default_rng(key).standard_normal(shape, np.float32)
    depth = depth_mode(policy, conditions)
    try:
        told = policy.act(seen.images, seen.task, seen.state, tag.name, depth=depth, noise=noise)
    except UndecodableActionsError:
        return None
    if not np.isfinite(told.actions).all():
        raise FidelityError(
            f"{policy.bundle.path}: answered {seen.task!r} at {seen.t_s:g} s of episode "
            f"{seen.episode} with actions that are no numbers; build it again, with more bits"
        )
    return told


def _report(
    small: Policy,
    whole: Policy,
    tag: RobotTag,
    profile: Profile,
    conditions: Conditions,
    played: list[tuple[Answers, Answers, Answers]],
) -> OpenLoopReport:
    units, action_hz = RobotUnits(tag, profile.arm), profile.arm.action_hz
    asked = [
        triple
        for episode in played
        for triple in zip(*(player.results for player in episode), strict=True)
    ]
    triples = [triple for triple in asked if None not in triple]
    if not triples:
        raise FidelityError(
            f"none of {len(asked)} observations was answered with action tokens that mean a chunk "
            "by all; compare continuous actions"
        )
    chunks = [np.array([triple[player].actions for triple in triples]) for player in range(3)]
    ours, theirs, again = (chunk.reshape(-1, tag.action.dim).astype(np.float64) for chunk in chunks)
    error, spread = np.abs(ours - theirs), np.abs(again - theirs)
    return OpenLoopReport(
        bundle=bundle_card(small.bundle),
        against=bundle_card(whole.bundle),
        norm_tag=tag.name,
        depth=depth_mode(whole, conditions),
        actions=whole.actions,
        seed=conditions.seed,
        episodes=len(played),
        observations=len(triples),
        undecodable=len(asked) - len(triples),
        undecodable_alone=sum(ours is None and None not in theirs for ours, *theirs in asked),
        joints=tuple(
            JointError(
                name=name,
                unit=units.units[dim],
                range=float(units.ranges[dim]),
                error=amount(error[:, dim]),
                spread=amount(spread[:, dim]),
            )
            for dim, name in enumerate(units.names)
        ),
        action_share=BesideSpread(*(amount(part / units.ranges) for part in (error, spread))),
        tip_mm=_tips(units, ours, theirs, again),
        depth_codes_equal=_equal_codes(triples, 0),
        depth_codes_equal_spread=_equal_codes(triples, 2),
        gripper=_flips(units, chunks[0], chunks[1], action_hz),
        gripper_spread=_flips(units, chunks[2], chunks[1], action_hz),
        seam_velocity=_seams(units, played, action_hz),
    )


def _tips(
    units: RobotUnits, ours: np.ndarray, theirs: np.ndarray, again: np.ndarray
) -> BesideSpread | None:
    if not units.knows_tips:
        return None
    return BesideSpread(*(amount(units.tip_distances_mm(chunk, theirs)) for chunk in (ours, again)))


def _equal_codes(triples: list[tuple[PolicyResult, ...]], player: int) -> float | None:
    if triples[0][1].depth_codes is None:
        return None
    return float(
        np.mean([triple[player].depth_codes == triple[1].depth_codes for triple in triples])
    )


def _flips(
    units: RobotUnits, chunks: np.ndarray, others: np.ndarray, action_hz: float
) -> FlipAgreement | None:
    if not units.grippers:
        return None
    sides = ([units.open_grippers(chunk) for chunk in part] for part in (chunks, others))
    return flip_agreement(*sides, action_hz)


def _seams(
    units: RobotUnits, played: list[tuple[Answers, Answers, Answers]], action_hz: float
) -> SeamVelocity | None:
    body = list(units.body)
    jumps = [
        np.concatenate(
            [
                episode_seams(
                    part[player].times_s,
                    [
                        None if result is None else result.actions[:, body]
                        for result in part[player].results
                    ],
                    action_hz,
                )
                for part in played
            ]
        )
        for player in range(3)
    ]
    return SeamVelocity(*map(amount, jumps)) if all(map(len, jumps)) else None
