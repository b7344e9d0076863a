"""What fidelity is reported as: frozen records, which become JSON as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.bundle import Bundle
from quantization.fidelity.flips import FlipAgreement


@dataclass(frozen=True, slots=True)
class Amount:
    """How large errors were, over all actions of all chunks."""

    mean: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True)
class BesideSpread:
    """An error, beside what full precision differs from itself by with other noise."""

    error: Amount
    spread: Amount


@dataclass(frozen=True, slots=True)
class JointError:
    """Absolute error of one action dim."""

    name: str
    unit: str
    range: float  # of the norm tag: what the checkpoint can say
    error: Amount
    spread: Amount


@dataclass(frozen=True, slots=True)
class BundleCard:
    """Which bundle was measured."""

    path: str
    recipe: str
    size_bytes: int
    source_sha256: str


@dataclass(frozen=True, slots=True)
class SeamVelocity:
    """Jumps of a body joint's goal velocity where a chunk takes over, in units a second."""

    bundle: Amount
    against: Amount
    other_noise: Amount  # full precision with other noise


@dataclass(frozen=True, slots=True)
class OpenLoopReport:
    """How far a bundle's chunks are from those of full precision, for the same observations."""

    bundle: BundleCard
    against: BundleCard
    norm_tag: str
    depth: str
    actions: str
    seed: int
    episodes: int
    observations: int
    undecodable: int  # observations left out: action tokens of one of them meant no chunk
    undecodable_alone: int  # of these, the ones that full precision had a chunk for
    joints: tuple[JointError, ...]
    action_share: BesideSpread  # errors as shares of the joints' ranges, over all joints
    tip_mm: BesideSpread | None  # None for arms other than SO-100/101
    depth_codes_equal: float | None  # share; None without depth
    depth_codes_equal_spread: float | None
    gripper: FlipAgreement | None  # None for a robot without gripper
    gripper_spread: FlipAgreement | None
    seam_velocity: SeamVelocity | None  # None where no chunk followed another in time


def amount(errors: np.ndarray) -> Amount:
    """Sum up errors of any shape; at least one."""
    return Amount(
        mean=float(np.mean(errors)),
        p95=float(np.percentile(errors, 95)),
        max=float(np.max(errors)),
    )


def bundle_card(bundle: Bundle) -> BundleCard:
    """Describe an open bundle."""
    manifest = bundle.manifest
    return BundleCard(
        path=str(bundle.path),
        recipe=manifest.recipe.name,
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        source_sha256=manifest.source.sha256,
    )
