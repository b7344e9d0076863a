"""Memory of a training process, estimated before anything runs.

Per device of N (fully sharded): 4 B a parameter for the fp32 master, 4 B a trainable one for its
gradient, 8 B for AdamW's two moments, 4 B for a running average, all divided by N; what is gathered
to compute with, in fp32, and its bf16 copies; and the activations of one pass:

    decoder  layers x tokens x (6 hidden + 3 query + 4 key + 4 mlp) values
    vision   layers x patches x (13 hidden + 3 mlp) values
    expert   layers x samples x (horizon x (12 hidden + 4 mlp) + 2 tokens x hidden) values
    head     learnt tokens x vocabulary x (three fp32 copies)

each value 2 B in bf16 and 4 B in fp32. Computing activations again in the backward pass leaves one
hidden value a layer and token, and twice one layer in full. A part through which no gradient passes
keeps one layer.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from training.trainer.example_load import ExampleLoad
from training.trainer.model_shape import Shape

GIB = 1 << 30
MASTER, GRADIENT, MOMENTS, AVERAGE = 4, 4, 8, 4  # bytes a parameter


@dataclass(frozen=True, slots=True)
class Learning:
    """What of the model learns, in parameters, and where gradients pass."""

    parameters: int
    trainable: int
    through_vision: bool
    through_decoder: bool
    through_expert: bool


@dataclass(frozen=True, slots=True)
class Passes:
    """How a step is computed."""

    devices: int
    examples: int  # of a pass on one device
    precision: str  # fp32 or bf16
    recompute: bool
    flow_samples: int
    averaged: bool


@dataclass(frozen=True, slots=True)
class DeviceBytes:
    """Bytes of one device."""

    weights: float
    gathered: float
    gradients: float
    optimizer: float
    averages: float
    activations: float

    @property
    def total(self) -> float:
        """Return all of them."""
        return sum(astuple(self))


def device_bytes(
    shape: Shape, learning: Learning, passes: Passes, load: ExampleLoad
) -> DeviceBytes:
    """Estimate one device's memory; `load` is the largest example's."""
    mine = learning.trainable / passes.devices
    return DeviceBytes(
        weights=MASTER * learning.parameters / passes.devices,
        gathered=_gathered(shape, learning, passes),
        gradients=GRADIENT * mine,
        optimizer=MOMENTS * mine,
        averages=AVERAGE * mine if passes.averaged else 0,
        activations=passes.examples * _activations(shape, learning, passes, load),
    )


def _gathered(shape: Shape, learning: Learning, passes: Passes) -> float:
    """Sharded: the parameters outside blocks and two blocks in fp32. In bf16: autocast's copies.

    A backward pass that computes nothing again keeps the copies of every block it passes.
    """
    gathered = 0.0
    if passes.devices > 1:
        gathered = MASTER * (shape.outside_blocks + 2 * shape.largest_block)
    if passes.precision == "bf16":
        kept = learning.through_decoder and not passes.recompute
        gathered += 2 * (learning.parameters if kept else shape.outside_blocks)
    return gathered


def _activations(shape: Shape, learning: Learning, passes: Passes, load: ExampleLoad) -> float:
    value = 2 if passes.precision == "bf16" else 4
    tokens, samples = load.tokens, passes.flow_samples
    decoder = tokens * (
        6 * shape.hidden + 3 * shape.query_width + 4 * shape.key_width + 4 * shape.mlp
    )
    vision = shape.patches * (13 * shape.vision_hidden + 3 * shape.vision_mlp)
    expert = samples * (
        shape.horizon * (12 * shape.expert_hidden + 4 * shape.expert_mlp)
        + 2 * tokens * shape.expert_hidden
    )
    kept = (
        _kept(decoder, tokens * shape.hidden, shape.layers, learning.through_decoder, passes)
        + load.pictures
        * _kept(
            vision,
            shape.patches * shape.vision_hidden,
            shape.vision_layers,
            learning.through_vision,
            passes,
        )
        + load.chunks
        * _kept(
            expert,
            samples * shape.horizon * shape.expert_hidden,
            shape.layers,
            learning.through_expert,
            passes,
        )
        + load.chunks * shape.layers * tokens * 2 * shape.key_width
    )
    head = load.learnt * shape.vocabulary * 3 * 4
    mask = tokens * tokens * 4
    return value * kept + head + mask


def _kept(layer: float, entry: float, layers: int, learns: bool, passes: Passes) -> float:
    if not learns:
        return layer
    return layers * entry + 2 * layer if passes.recompute else layers * layer
