"""Random weights, tensor by tensor, the same on every machine.

Each tensor has a random stream of its own, seeded by the run's seed and the tensor's name, so that
tensors can be made in any order and none depends on another. Values are uniform with the wanted
mean and standard deviation: numpy draws those by exact arithmetic, so that a seed means the same
bytes everywhere, which normal draws (logarithms in the tails) do not promise.

How large the weights are decides what an untrained model does. They are chosen so that every input
matters: attention that looks at few tokens, image tokens as loud as text, timestep modulation that
is not zero, a depth gate that is half open. `weight_structure` then adds what randomness alone does
not give: a depth span that ends and actions that stay in range.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

import numpy as np

from training.init.sizes import ModelSize
from training.init.tensor_layout import TensorSpec
from training.init.weight_structure import TokenRows, add_structure


@dataclass(frozen=True, slots=True)
class Draw:
    """How to draw a tensor. `per_input` divides the deviation by the root of the inputs."""

    mean: float = 0.0
    std: float = 0.0
    per_input: bool = False


# The first pattern that is found in a tensor's name decides.
DRAWS: tuple[tuple[str, Draw], ...] = (
    (r"self_attn\.[qk]_norm", Draw(mean=1.5, std=0.1)),
    (r"(norm|ln_f)\.weight$", Draw(mean=1.0, std=0.05)),
    (r"wte\.", Draw(std=0.3)),
    (r"positional_embedding", Draw(std=0.5)),
    (r"modulation\.linear\.bias$", Draw(std=0.1)),
    (r"modulation\.linear\.weight$", Draw(std=0.1, per_input=True)),
    (r"action_expert.*\.(qkv|q_proj|up_proj|gate_proj)\.weight$", Draw(std=3.0, per_input=True)),
    (r"action_expert.*\.(self_attn\.out_proj|down_proj)\.weight$", Draw(std=0.3, per_input=True)),
    (r"depth_gate.*\.weight$", Draw(std=1.0, per_input=True)),
    (r"self_attn\.attn_out\.weight$", Draw(std=2.0, per_input=True)),
    (r"patch_embedding\.weight$", Draw(std=2.0, per_input=True)),
    (r"image_vit.*\.w[qk]\.weight$", Draw(std=1.5, per_input=True)),
    (r"image_projector\.w2\.weight$", Draw(std=2.0, per_input=True)),
    (r"\.bias$", Draw(std=0.05)),
    (r"", Draw(std=1.0, per_input=True)),
)


def random_tensor(spec: TensorSpec, size: ModelSize, rows: TokenRows, seed: int) -> np.ndarray:
    """Draw one tensor as float32 of shape `spec.shape`."""
    if spec.name.endswith("rotary_emb.inv_freq"):
        return _inverse_frequencies(size.text.rope_theta, size.text.head_dim)
    draw = next(draw for pattern, draw in DRAWS if re.search(pattern, spec.name))
    std = draw.std / math.sqrt(spec.shape[-1]) if draw.per_input else draw.std
    values = _stream(seed, spec.name).random(spec.shape, dtype=np.float32)
    values *= np.float32(2 * math.sqrt(3) * std)  # a uniform draw of this width has deviation std
    values += np.float32(draw.mean - math.sqrt(3) * std)
    add_structure(spec.name, values, size, rows)
    return values


def _stream(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _inverse_frequencies(theta: float, head_dim: int) -> np.ndarray:
    exponents = [2 * i / head_dim for i in range(head_dim // 2)]
    return np.array([theta**-exponent for exponent in exponents], dtype=np.float32)
