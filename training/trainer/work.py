"""Floating-point operations of a training step, estimated: two for each multiply-add.

Forward: 2 x parameters x tokens for every part, plus attention's 4 x queries x keys x width; the
head counts for learnt tokens only, the expert for every flow sample. A part that gradients pass
through costs that once again, its share that learns once more, and computing activations again
once more.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.trainer.example_load import ExampleLoad
from training.trainer.memory import Learning, Passes
from training.trainer.model_shape import Shape


def example_flops(
    shape: Shape,
    parameters: Mapping[str, int],
    trainable: Mapping[str, int],
    learning: Learning,
    passes: Passes,
    load: ExampleLoad,
) -> float:
    """Estimate one example's operations; `parameters` and `trainable` are by group."""
    tables = 2 * shape.vocabulary * shape.hidden  # embeddings, which are looked up, and head
    tokens, samples = load.tokens, load.chunks * passes.flow_samples
    vision_attention = 4 * shape.patches * shape.vision_hidden * shape.vision_layers
    decoder_attention = 4 * tokens**2 * shape.query_width * shape.layers
    expert_attention = 4 * tokens * shape.expert_hidden * shape.layers
    to_expert = 4 * shape.key_width * shape.expert_hidden * shape.layers
    forward = {
        "vision": load.pictures * shape.patches * (2 * parameters["vision"] + vision_attention),
        "connector": load.pictures * shape.picture_tokens * 2 * parameters["connector"],
        "decoder": tokens * 2 * max(0, parameters["decoder"] - tables)
        + decoder_attention
        + 2 * load.learnt * shape.vocabulary * shape.hidden,
        "expert": samples * shape.horizon * (2 * parameters["expert"] + expert_attention)
        + load.chunks * tokens * to_expert,
    }
    passing = {
        "vision": learning.through_vision,
        "connector": learning.through_vision,
        "decoder": learning.through_decoder,
        "expert": learning.through_expert,
    }
    return sum(
        work * _times(trainable[part] / parameters[part], passing[part], passes.recompute)
        for part, work in forward.items()
        if parameters[part]
    )


def _times(share_learning: float, passing: bool, recompute: bool) -> float:
    return 2 + share_learning + recompute if passing else 1
