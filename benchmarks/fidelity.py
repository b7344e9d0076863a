"""How far one bundle's actions are from another's, in the units of the robot.

Both bundles see the same pictures, tasks, states and noise. The pictures are synthetic: smooth
scenes in which one patch moves, enough to exercise every stage, not enough to judge a skill.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge.errors import BundleError
from edge.normalization import RobotTag, choose_tag
from edge.policy import Policy, PolicyResult
from edge.report import machine_name

_TASKS = ("pick up the red cube", "put the green cube in the bin", "push the blue cube away")
_PICTURE_SHAPE = (144, 192, 3)
_PATCH_PX = 32


@dataclass(frozen=True, slots=True)
class JointError:
    """Absolute action error of one joint, and the spread of full precision between noise seeds."""

    name: str
    mean: float
    p95: float
    max: float
    max_share: float  # of the joint's q01..q99 (or other) range
    seed_spread_mean: float


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """Everything `print_report` prints, and the JSON line."""

    machine: str
    bundle: str
    bundle_recipe: str
    against: str
    against_recipe: str
    source_sha256: str
    samples: int
    seed: int
    joints: list[JointError]
    depth_code_agreement: float | None  # share of equal codes, None without depth


@dataclass(frozen=True, slots=True)
class _Observation:
    images: list[np.ndarray]
    task: str
    state: np.ndarray
    noise: np.ndarray
    other_noise: np.ndarray


def compare_bundles(
    bundle: Path, against: Path, *, samples: int, cameras: int, norm_tag: str | None, seed: int
) -> FidelityReport:
    """Play `samples` observations to both bundles; raise `EdgeError` when they cannot be compared.

    `cameras` counts only where the norm tag does not name its cameras.
    """
    whole = Policy.open(against)
    small = Policy.open(bundle, actions=whole.actions)
    source = small.bundle.manifest.source.sha256
    if source != whole.bundle.manifest.source.sha256:
        raise BundleError(f"{bundle} and {against} come from different checkpoints")
    tag = choose_tag(whole.bundle.tags, norm_tag)
    model = whole.bundle.manifest.model
    depth = "incremental" if model.depth_cells else "off"
    noise_shape = (1, tag.action_horizon, model.max_action_dim)
    errors, spreads, agreements = [], [], []
    for seen in _observations(tag, cameras, noise_shape, samples, seed):
        ours = _act(small, seen, tag.name, depth, seen.noise)
        theirs = _act(whole, seen, tag.name, depth, seen.noise)
        again = _act(whole, seen, tag.name, "off", seen.other_noise)
        plain = _act(whole, seen, tag.name, "off", seen.noise)
        errors.append(np.abs(ours.actions - theirs.actions))
        spreads.append(np.abs(again.actions - plain.actions))
        if ours.depth_codes is not None:
            agreements.append(float(np.mean(ours.depth_codes == theirs.depth_codes)))
    error, spread = np.concatenate(errors), np.concatenate(spreads)
    return FidelityReport(
        machine=machine_name(),
        bundle=str(bundle),
        bundle_recipe=small.bundle.manifest.recipe.name,
        against=str(against),
        against_recipe=whole.bundle.manifest.recipe.name,
        source_sha256=source,
        samples=samples,
        seed=seed,
        joints=_joint_errors(tag, error, spread),
        depth_code_agreement=float(np.mean(agreements)) if agreements else None,
    )


def print_report(report: FidelityReport) -> None:
    """Print card, table and, last, one JSON line."""
    print(f"measured on {report.machine}")
    print(f"{report.bundle} ({report.bundle_recipe}) against {report.against}", end=" ")
    print(f"({report.against_recipe}), {report.samples} synthetic observations, seed {report.seed}")
    print("\nabsolute action error, each joint in its own unit (degrees, gripper as trained)")
    print(f"{'joint':<16}{'mean':>10}{'p95':>10}{'max':>10}{'max/range':>11}{'seed spread':>13}")
    for joint in report.joints:
        print(
            f"{joint.name:<16}{joint.mean:>10.4f}{joint.p95:>10.4f}{joint.max:>10.4f}"
            f"{joint.max_share:>10.2%} {joint.seed_spread_mean:>12.4f}"
        )
    if report.depth_code_agreement is not None:
        print(f"\ndepth codes equal: {report.depth_code_agreement:.1%}")
    print(json.dumps(asdict(report)))


def _act(
    policy: Policy, seen: _Observation, norm_tag: str, depth: str, noise: np.ndarray
) -> PolicyResult:
    return policy.act(seen.images, seen.task, seen.state, norm_tag, depth=depth, noise=noise)


def _observations(
    tag: RobotTag, cameras: int, noise_shape: tuple[int, ...], samples: int, seed: int
) -> Iterator[_Observation]:
    """Give smooth scenes, a little noisy, in which a patch moves on from sample to sample."""
    random = np.random.default_rng(seed)
    count = len(tag.cameras) or cameras
    scenes = [_scene(random) for _ in range(count)]
    limit = np.array(_PICTURE_SHAPE[:2]) - _PATCH_PX
    for index in range(samples):
        images = []
        for scene in scenes:
            row, column = (np.array([13, 29]) * index) % limit
            image = scene + random.normal(0, 1, scene.shape)
            image[row : row + _PATCH_PX, column : column + _PATCH_PX] = (230, 40, 40)
            images.append(np.clip(image, 0, 255).astype(np.uint8))
        yield _Observation(
            images=images,
            task=_TASKS[index % len(_TASKS)],
            state=tag.state.unnormalize(random.uniform(-1, 1, tag.state.dim)),
            noise=random.standard_normal(noise_shape, np.float32),
            other_noise=random.standard_normal(noise_shape, np.float32),
        )


def _scene(random: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[0 : _PICTURE_SHAPE[0], 0 : _PICTURE_SHAPE[1]]
    waves = random.uniform(9, 40, (3, 2))
    channels = [127 + 90 * np.sin(columns / x) * np.cos(rows / y) for x, y in waves]
    return np.stack(channels, axis=-1)


def _joint_errors(tag: RobotTag, error: np.ndarray, spread: np.ndarray) -> list[JointError]:
    ones = np.ones(tag.action.dim)
    extent = np.abs(tag.action.unnormalize(ones) - tag.action.unnormalize(-ones))
    return [
        JointError(
            name=name,
            mean=float(error[:, joint].mean()),
            p95=float(np.percentile(error[:, joint], 95)),
            max=float(error[:, joint].max()),
            max_share=float(error[:, joint].max() / extent[joint]),
            seed_spread_mean=float(spread[:, joint].mean()),
        )
        for joint, name in enumerate(tag.action_names)
    ]
