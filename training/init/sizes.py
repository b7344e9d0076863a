"""Model sizes as data: every number that shapes a MolmoAct2 checkpoint.

`nano` keeps the structure of the released 5 B model (grouped heads whose widths do not add up to
the hidden size, a ViT that is tapped at two depths and whose last block is never built, an odd
patch grid, one action block per decoder layer, a depth gate per layer) at a size that two CPU
cores run many times a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from training.errors import UnknownSizeError


class DepthGate(Enum):
    """What scales the keys and values of depth tokens before the action expert sees them."""

    NONE = "none"
    SHARED = "shared"  # one gate for all layers
    PER_LAYER = "per layer"


@dataclass(frozen=True, slots=True)
class VisionSize:
    """The image encoder and the connector that turns patches into tokens."""

    image_size_px: int
    patch_size_px: int
    pooling_patches: int  # side of the square of patches that become one token
    width: int
    heads: int
    mlp_width: int
    layers: int  # as configured; only those up to the deepest tap are built
    tap_layers: tuple[int, ...]  # negative: counted from `layers`
    adapter_width: int
    adapter_heads: int
    adapter_mlp_width: int
    crop_mode: str = "resize"  # or "overlap-and-resize-c2": tiles beside the squashed image
    max_crops: int = 8  # tiles per image
    overlap_patches: tuple[int, int] = (4, 4)  # tiles share these margins, left and right

    @property
    def patches_per_side(self) -> int:
        """Give the number of patches along one side of an image."""
        return self.image_size_px // self.patch_size_px

    @property
    def built_layers(self) -> int:
        """Give the number of blocks that hold weights: up to the deepest tap."""
        return max(tap % self.layers for tap in self.tap_layers) + 1


@dataclass(frozen=True, slots=True)
class TextSize:
    """The decoder. `vocab_rows` holds text and robot tokens, `added_rows` the image tokens."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab_rows: int
    added_rows: int
    rope_theta: float
    max_positions: int


@dataclass(frozen=True, slots=True)
class ExpertSize:
    """The flow-matching action expert: one block per decoder layer."""

    width: int
    heads: int
    mlp_ratio: float
    mlp_multiple: int
    timestep_width: int
    max_action_dim: int
    horizon: int
    flow_steps: int

    @property
    def mlp_width(self) -> int:
        """Give the hidden width of a block's MLP, rounded up to `mlp_multiple`."""
        return -(-int(self.width * self.mlp_ratio) // self.mlp_multiple) * self.mlp_multiple


@dataclass(frozen=True, slots=True)
class ModelSize:
    """One row of the size table."""

    name: str
    vision: VisionSize
    text: TextSize
    expert: ExpertSize
    depth_grid: int  # cells along one side; the span has depth_grid ** 2 codes
    depth_gate: DepthGate
    cameras: tuple[str, ...] = ("front", "wrist")  # in the order in which the model sees them
    has_expert: bool = True  # False: before post-training, when `expert` is only a plan

    def without_expert(self) -> ModelSize:
        """Give the size of the backbone alone, as it is until an expert is grafted onto it."""
        return replace(self, has_expert=False, depth_gate=DepthGate.NONE)


NANO = ModelSize(
    name="nano",
    vision=VisionSize(
        image_size_px=182,
        patch_size_px=14,
        pooling_patches=2,
        width=64,
        heads=4,
        mlp_width=192,
        layers=5,
        tap_layers=(-2, -4),
        adapter_width=64,
        adapter_heads=4,
        adapter_mlp_width=192,
    ),
    text=TextSize(
        width=128,
        layers=4,
        heads=6,
        kv_heads=2,
        head_dim=32,
        mlp_width=384,
        vocab_rows=3072,
        added_rows=128,
        rope_theta=1_000_000.0,
        max_positions=2048,
    ),
    expert=ExpertSize(
        width=96,
        heads=4,
        mlp_ratio=2.0,
        mlp_multiple=32,
        timestep_width=64,
        max_action_dim=32,
        horizon=30,
        flow_steps=10,
    ),
    depth_grid=10,
    depth_gate=DepthGate.PER_LAYER,
)

# The released model's shape (arXiv 2605.02881, table 15, and the released configuration); the
# projector's width follows from the 57 M parameters the paper gives the connector.
FULL = ModelSize(
    name="full",
    vision=VisionSize(
        image_size_px=378,
        patch_size_px=14,
        pooling_patches=2,
        width=1152,
        heads=16,
        mlp_width=4304,
        layers=27,
        tap_layers=(-3, -9),
        adapter_width=1152,
        adapter_heads=16,
        adapter_mlp_width=9728,
    ),
    text=TextSize(
        width=2560,
        layers=36,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp_width=9728,
        vocab_rows=151_936,
        added_rows=128,
        rope_theta=1_000_000.0,
        max_positions=4096,
    ),
    expert=ExpertSize(
        width=768,
        heads=8,
        mlp_ratio=4.0,
        mlp_multiple=256,
        timestep_width=256,
        max_action_dim=32,
        horizon=30,
        flow_steps=10,
    ),
    depth_grid=10,
    depth_gate=DepthGate.PER_LAYER,
)

SIZES: dict[str, ModelSize] = {size.name: size for size in (NANO, FULL)}


def size_by_name(name: str) -> ModelSize:
    """Look a size up. Raises UnknownSizeError, which lists the known ones."""
    if name not in SIZES:
        raise UnknownSizeError(name, tuple(SIZES))
    return SIZES[name]
