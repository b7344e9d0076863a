"""What a manifest may say: the range of every number, and what must fit what.

Sizes are bounded far above any model that fits a robot, and far below what would exhaust a machine
before the graphs are compared with them.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import BundleError, shown
from edge.gate_entry import FAILED, PASSED

if TYPE_CHECKING:
    from edge.gate_entry import GateEntry
    from edge.images import ImageLayout
    from edge.manifest import Manifest, ModelEntry, TokenEntry

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODEL_RANGES = {
    "width": (1, 1 << 16),
    "layers": (1, 1 << 10),
    "head_dim": (2, 1 << 12),
    "kv_width": (1, 1 << 16),
    "rope_theta": (1.0, 1e12),
    "max_positions": (1, 1 << 18),
    "embedding_rows": (1, 1 << 24),
    "action_codes": (0, 1 << 16),
    "expert_width": (0, 1 << 16),
    "max_action_horizon": (1, 1 << 12),
    "max_action_dim": (1, 1 << 10),
    "flow_steps": (0, 1000),
    "n_obs_steps": (1, 1 << 12),
    "depth_cells": (0, 1 << 14),
    "depth_codes": (0, 1 << 16),
}
_IMAGE_RANGES = {
    "height": (1, 1 << 12),
    "width": (1, 1 << 12),
    "patch_size": (1, 1 << 8),
    "pooling_height": (1, 1 << 6),
    "pooling_width": (1, 1 << 6),
    "max_crops": (1, 1 << 6),
    "overlap_left": (0, 1 << 8),
    "overlap_right": (0, 1 << 8),
}
_STATE_BINS = (2, 1 << 16)
_WEIGHT_ERROR = (0.0, 1e6)
_GATE_NUMBER = (-1e12, 1e12)
_CHOICES = {
    "embedding_dtype": ("float32", "bfloat16"),
    "depth_gate": ("none", "single", "per-layer"),
}
_ACTIONS = (("continuous",), ("discrete",), ("continuous", "discrete"))
_CROP_MODES = ("resize", "overlap-and-resize")


def check_limits(manifest: Manifest, path: Path) -> None:
    """Raise `BundleError` with the field, its value and what is allowed; `path` names the file."""
    check_model(manifest.model, manifest.tokens, path)
    for name, layer in manifest.recipe.layers.items():
        for field in fields(layer):
            if field.name.endswith("_error"):
                where = f"recipe.layers[{name!r}].{field.name}"
                _within(path, where, getattr(layer, field.name), *_WEIGHT_ERROR)
    for name, entry in manifest.files.items():
        if not _SHA256.fullmatch(entry.sha256):
            raise _refusal(path, f"files[{name!r}].sha256", entry.sha256, "64 hexadecimal digits")
    for number, rule in enumerate(manifest.recipe.rules):
        if len(rule) != 2:
            raise _refusal(path, f"recipe.rules[{number}]", list(rule), "[pattern, format]")
    if manifest.gate is not None:
        _check_gate(path, manifest.gate)


def check_model(model: ModelEntry, tokens: TokenEntry, path: Path) -> None:
    """Check what a bundle says of its model; `BundleError` as `check_limits`."""
    image = model.image
    for name, (low, high) in _MODEL_RANGES.items():
        _within(path, f"model.{name}", getattr(model, name), low, high)
    for name, (low, high) in _IMAGE_RANGES.items():
        _within(path, f"model.image.{name}", getattr(image, name), low, high)
    for name, allowed in _CHOICES.items():
        _one_of(path, f"model.{name}", getattr(model, name), allowed)
    _one_of(path, "model.image.crop_mode", image.crop_mode, _CROP_MODES)
    _within(path, "model.prompt.state_bins", model.prompt.state_bins, *_STATE_BINS)
    _check_shapes(path, model)
    _check_actions(path, model)
    _check_image(path, image)
    _check_tokens(path, tokens, model)


def _check_gate(path: Path, gate: GateEntry) -> None:
    """Check that a verdict is one, and the one that its own checks give."""
    if not gate.checks:
        raise _refusal(path, "gate.checks", {}, "at least one")
    for name, check in gate.checks.items():
        for what in ("value", "limit"):
            _within(path, f"gate.checks[{name!r}].{what}", getattr(check, what), *_GATE_NUMBER)
    allowed = PASSED if all(check.holds for check in gate.checks.values()) else FAILED
    if gate.verdict != allowed:
        raise _refusal(path, "gate.verdict", gate.verdict, f"{allowed}, as gate.checks have it")


def _check_shapes(path: Path, model: ModelEntry) -> None:
    if model.head_dim % 2 or model.kv_width % model.head_dim:
        allowed = f"whole heads of an even width, head_dim is {model.head_dim}"
        raise _refusal(path, "model.kv_width", model.kv_width, allowed)
    if model.n_obs_steps > model.max_action_horizon:
        allowed = f"at most max_action_horizon {model.max_action_horizon}"
        raise _refusal(path, "model.n_obs_steps", model.n_obs_steps, allowed)
    if math.isqrt(model.depth_cells) ** 2 != model.depth_cells:
        raise _refusal(path, "model.depth_cells", model.depth_cells, "a square number")
    if (model.depth_cells > 0) != (model.depth_codes > 0):
        allowed = f"0 exactly when depth_cells is, which is {model.depth_cells}"
        raise _refusal(path, "model.depth_codes", model.depth_codes, allowed)


def _check_actions(path: Path, model: ModelEntry) -> None:
    if model.actions not in _ACTIONS:
        allowed = " or ".join(str(list(names)) for names in _ACTIONS)
        raise _refusal(path, "model.actions", list(model.actions), allowed)
    needed = {"expert_width": "continuous", "flow_steps": "continuous", "action_codes": "discrete"}
    for name, kind in needed.items():
        value = getattr(model, name)
        if (value > 0) != (kind in model.actions):
            has = " and ".join(model.actions)
            allowed = f"0 exactly when there are no {kind} actions; this bundle has {has}"
            raise _refusal(path, f"model.{name}", value, allowed)


def _check_image(path: Path, image: ImageLayout) -> None:
    patch = image.patch_size
    for name, side in (("height", image.height), ("width", image.width)):
        if side % patch:
            raise _refusal(path, f"model.image.{name}", side, f"whole patches of {patch}")
    if image.crop_mode == "resize":
        return
    if image.height != image.width:
        raise _refusal(path, "model.image.width", image.width, f"the height, {image.height}")
    margin = image.overlap_left + image.overlap_right
    if margin >= image.grid[0]:
        where = "model.image.overlap_left + overlap_right"
        raise _refusal(path, where, margin, f"fewer than the {image.grid[0]} patches of a crop")


def _check_tokens(path: Path, tokens: TokenEntry, model: ModelEntry) -> None:
    rows = model.embedding_rows
    named = {"bos": tokens.bos, "eos": tokens.eos, "image_patch": tokens.image_patch}
    named |= {f"image[{index}]": token for index, token in enumerate(tokens.image)}
    needed = {}
    depth = ("depth_output", "depth_start", "depth_end", "depth_first")
    action = ("action_start", "action_end", "action_first", "eos")
    for names, field in ((depth, "depth_cells"), (action, "action_codes")):
        named |= {name: getattr(tokens, name) for name in names}
        if getattr(model, field):
            needed |= dict.fromkeys(names, field)
    counts = {"depth_first": model.depth_codes, "action_first": model.action_codes}
    for name, token in named.items():
        if token is not None:
            _within(path, f"tokens.{name}", token, 0, rows - max(counts.get(name, 1), 1))
        elif name in needed:
            why = f"an id, because {needed[name]} is not 0"
            raise _refusal(path, f"tokens.{name}", token, why)
    if tokens.image_patch not in tokens.image:
        raise _refusal(path, "tokens.image_patch", tokens.image_patch, "one of tokens.image")


def _within(path: Path, where: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is within nothing
        raise _refusal(path, where, value, f"{low} to {high}")


def _one_of(path: Path, where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise _refusal(path, where, value, ", ".join(allowed))


def _refusal(path: Path, where: str, value: object, allowed: str) -> BundleError:
    return BundleError(f"{path}: manifest.{where} is {shown(value)}; allowed: {allowed}")
