"""Recipes: which format each matrix gets, as pure functions of its path and shape.

Paths read `graph/part`, for example `decoder/blocks.3.ff_proj` or `expert/blocks.0.mlp.up_gate`.
"""

from __future__ import annotations

from collections.abc import Callable

from quantization.errors import BuildError
from quantization.formats import FP32, INT8, Format

Recipe = Callable[[str, tuple[int, int]], Format]

_WIDE_INPUTS = 1024  # from here on a block of 128 inputs, the fastest on CPUs, is still local
_KEPT_WHOLE = (  # few weights at the edge of the model: nothing to gain, errors are direct
    "vision/patch_embedding",
    "expert/action_embed",
    "expert/final",
    "context/depth_gate",
)


def fp32(_path: str, _shape: tuple[int, int]) -> Format:
    """Keep everything: the form that must agree with the reference."""
    return FP32


def int8(path: str, _shape: tuple[int, int]) -> Format:
    """Store 8 bits a weight and quantise activations to 8 bits on the fly."""
    return FP32 if path.startswith(_KEPT_WHOLE) else INT8


def int4(path: str, shape: tuple[int, int]) -> Format:
    """Store 4 bits a weight in blocks along the inputs."""
    if path.startswith(_KEPT_WHOLE):
        return FP32
    return Format(4, 128 if shape[1] >= _WIDE_INPUTS else 32)


RECIPES: dict[str, Recipe] = {"fp32": fp32, "int8": int8, "int4": int4}


def find_recipe(name: str) -> Recipe:
    """Return the recipe called `name`; raise `BuildError` that lists the known ones."""
    if name not in RECIPES:
        raise BuildError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
