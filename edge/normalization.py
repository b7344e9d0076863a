"""Between robot units and the model's [-1, 1]: the checkpoint's `norm_stats.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.errors import BundleError, ObservationError, shown
from edge.prompt import is_text

NORM_MODES = ("q01_q99", "q10_q90", "min_max", "mean_std", "none")
_RANGE_KEYS = {"q01_q99": ("q01", "q99"), "q10_q90": ("q10", "q90"), "min_max": ("min", "max")}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_EPSILON = np.float32(1e-6)  # the release's floor for a range or a standard deviation


@dataclass(frozen=True, slots=True)
class Normalizer:
    """One feature vector's statistics, each (dim,) float32; None where the mode needs none.

    Ranges map [low, high] to [-1, 1] and clip; `mean_std` maps without clipping. Where `mask` is
    False the value passes through; where `constant` is True the feature never moved in training and
    normalises to 0.
    """

    low: np.ndarray | None
    high: np.ndarray | None
    mean: np.ndarray | None
    std: np.ndarray | None
    mask: np.ndarray
    constant: np.ndarray

    @property
    def dim(self) -> int:
        return len(self.mask)

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """Map robot units, (..., dim), to model units, float32."""
        values = np.asarray(values, np.float32)
        scaled = values
        if self.mean is not None:
            scaled = (values - self.mean) / np.maximum(self.std, _EPSILON)
        elif self.low is not None:
            span = np.maximum(self.high - self.low, _EPSILON)
            scaled = np.clip(np.float32(2) * (values - self.low) / span - np.float32(1), -1, 1)
        return np.where(self.constant, np.float32(0), np.where(self.mask, scaled, values))

    def unnormalize(self, values: np.ndarray) -> np.ndarray:
        """Map model units, (..., dim), to robot units, float32.

        Ranges clip to [-1, 1] first, masked dims too, as the release does.
        """
        values = np.asarray(values, np.float32)
        if self.mean is not None:
            return np.where(self.mask, values * self.std + self.mean, values)
        if self.low is None:
            return values
        values = np.clip(values, -1, 1)
        half = (self.high - self.low) / np.float32(2)
        return np.where(self.mask, (values + np.float32(1)) * half + self.low, values)


@dataclass(frozen=True, slots=True)
class RobotTag:
    """One robot the checkpoint knows: its texts, horizon and statistics."""

    name: str
    setup: str
    control: str
    action_horizon: int
    n_action_steps: int
    cameras: tuple[str, ...]  # in prompt order; empty when the checkpoint does not say
    action_names: tuple[str, ...]  # one a dimension
    action: Normalizer
    state: Normalizer


def parse_tags(
    payload: Any, max_horizon: int, max_dim: int, n_obs_steps: int = 1
) -> dict[str, RobotTag]:
    """Read `norm_stats.json`; raise `BundleError` that names the tag and the key that is wrong.

    The first `n_obs_steps` - 1 actions of a chunk belong to the past, so that many more than
    `n_action_steps` must fit into the horizon.
    """
    mode = payload.get("norm_mode") if isinstance(payload, dict) else None
    if mode not in NORM_MODES:
        raise BundleError(
            f"norm_stats.json: norm_mode is {shown(mode)}; one of {', '.join(NORM_MODES)} is "
            "supported"
        )
    tags = payload.get("metadata_by_tag")
    if not isinstance(tags, dict) or not tags:
        raise BundleError("norm_stats.json: metadata_by_tag is empty; at least one tag is needed")
    parsed = {name: _parse_tag(name, tag, mode, max_horizon, max_dim) for name, tag in tags.items()}
    for name, tag in parsed.items():
        if tag.n_action_steps + n_obs_steps - 1 > tag.action_horizon:
            raise BundleError(
                f"norm_stats.json: tag {name!r}: n_action_steps {tag.n_action_steps} after "
                f"n_obs_steps {n_obs_steps} exceed action_horizon {tag.action_horizon}"
            )
    return parsed


def choose_tag(tags: dict[str, RobotTag], name: str | None) -> RobotTag:
    """Return the tag called `name`, or the only one; raise `ObservationError` otherwise."""
    known = ", ".join(sorted(tags))
    if name is None:
        if len(tags) == 1:
            return next(iter(tags.values()))
        raise ObservationError(f"norm_tag is missing and the bundle has {len(tags)}: give {known}")
    if name not in tags:
        raise ObservationError(f"norm_tag {name!r} is unknown; this bundle has {known}")
    return tags[name]


def _parse_tag(name: str, tag: Any, mode: str, max_horizon: int, max_dim: int) -> RobotTag:
    where = f"norm_stats.json: tag {shown(name)}"
    if not isinstance(tag, dict):
        raise BundleError(f"{where} is {shown(tag)}; an object is needed")
    horizon = _count(tag.get("action_horizon") or max_horizon, f"{where}: action_horizon")
    steps = _count(tag.get("n_action_steps") or horizon, f"{where}: n_action_steps")
    if horizon > max_horizon:
        raise BundleError(f"{where}: action_horizon {horizon} exceeds the model's {max_horizon}")
    if steps > horizon:
        raise BundleError(f"{where}: n_action_steps {steps} exceeds action_horizon {horizon}")
    action = _parse_stats(tag.get("action_stats"), mode, f"{where}: action_stats")
    state = _parse_stats(tag.get("state_stats"), mode, f"{where}: state_stats")
    if action.dim > max_dim:
        raise BundleError(f"{where}: {action.dim} action dims exceed max_action_dim {max_dim}")
    return RobotTag(
        name=name,
        setup=_text(tag.get("setup_type") or "", f"{where}: setup_type"),
        control=_text(tag.get("control_mode") or "", f"{where}: control_mode"),
        action_horizon=horizon,
        n_action_steps=steps,
        cameras=_texts(tag.get("camera_keys") or [], f"{where}: camera_keys"),
        action_names=_action_names(tag["action_stats"].get("names"), action.dim),
        action=action,
        state=state,
    )


def _text(value: Any, where: str) -> str:
    if not is_text(value):
        raise BundleError(f"{where} is {shown(value)}; a text is needed")
    return value


def _texts(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise BundleError(f"{where} is {shown(values)}; a list of texts is needed")
    return tuple(_text(value, f"{where}[{index}]") for index, value in enumerate(values))


def _action_names(names: Any, dim: int) -> tuple[str, ...]:
    """Return the checkpoint's names of the action dims, or numbers where it has none that fit."""
    if isinstance(names, list) and len(names) == dim and all(isinstance(n, str) for n in names):
        return tuple(names)
    return tuple(f"action[{index}]" for index in range(dim))


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BundleError(f"{where} is {shown(value)}; a whole number of 1 or more is needed")
    return value


def _parse_stats(stats: Any, mode: str, where: str) -> Normalizer:
    if not isinstance(stats, dict):
        raise BundleError(f"{where} is missing; the checkpoint needs it to speak robot units")
    low = high = mean = std = None
    if mode == "mean_std":
        mean, std = _vector(stats, "mean", where), _vector(stats, "std", where)
        dim = len(mean)
    elif mode == "none":
        dim = len(next((value for value in stats.values() if isinstance(value, list)), ()))
    else:
        low_key, high_key = _RANGE_KEYS[mode]
        low, high = _vector(stats, low_key, where), _vector(stats, high_key, where)
        dim = len(low)
    if dim == 0:
        raise BundleError(f"{where} describes no dimension; at least one is needed")
    mask = _mask(stats.get("mask"), dim, where)
    constant = np.zeros(dim, bool)
    for key, vector in (("low", low), ("high", high), ("std", std)):
        if vector is not None and vector.shape != (dim,):
            raise BundleError(f"{where}: {key} has shape {vector.shape}; ({dim},) is needed")
    if mode in _RANGE_KEYS and stats.get("min") is not None and stats.get("max") is not None:
        ends = _vector(stats, "min", where), _vector(stats, "max", where)
        if any(end.shape != (dim,) for end in ends):
            raise BundleError(f"{where}: min or max has not {dim} numbers")
        constant = ends[0] == ends[1]
    if low is not None and np.any((low > high) & mask):
        joint = int(np.argmax((low > high) & mask))
        raise BundleError(
            f"{where}: {low_key}[{joint}] is {low[joint]:g}, above {high_key} {high[joint]:g}"
        )
    return Normalizer(low, high, mean, std, mask, constant)


def _mask(mask: Any, dim: int, where: str) -> np.ndarray:
    """Read which dims are normalised, (dim,) bool: all, one answer for all, or one a dim."""
    answers = [True] if mask is None else mask if isinstance(mask, list) else [mask]
    if any(answer not in (True, False) for answer in answers) or len(answers) not in (1, dim):
        raise BundleError(f"{where}: mask is {shown(mask)}; {dim} of true or false are needed")
    return np.resize(np.array(answers, bool), dim)


def _vector(stats: dict[str, Any], key: str, where: str) -> np.ndarray:
    values = stats.get(key)
    if values is None:
        raise BundleError(f"{where}: {key} is missing")
    if not isinstance(values, list) or not all(map(_is_number, values)):
        raise BundleError(f"{where}: {key} is {shown(values)}; a list of finite numbers is needed")
    return np.array(values, np.float32)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _FLOAT32_MAX  # NaN is not
