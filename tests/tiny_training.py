"""A training run small enough to be killed, resumed and repeated in a test.

The model has the structure of the released one; the examples are drawn from their number alone.
As a program it is `molmoact-train` with these examples in place of datasets:

    python tests/tiny_training.py run RECIPE --out RUN
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from training.init.init_checkpoint import init_checkpoint
from training.init.sizes import DepthGate, ExpertSize, ModelSize, TextSize, VisionSize

os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = ModelSize(
    name="tiny",
    vision=VisionSize(
        image_size_px=42,
        patch_size_px=14,
        pooling_patches=2,
        width=16,
        heads=2,
        mlp_width=24,
        layers=3,
        tap_layers=(-2,),
        adapter_width=16,
        adapter_heads=2,
        adapter_mlp_width=16,
    ),
    text=TextSize(
        width=24,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=16,
        mlp_width=32,
        vocab_rows=3072,
        added_rows=16,
        rope_theta=10_000.0,
        max_positions=512,
    ),
    expert=ExpertSize(
        width=24,
        heads=2,
        mlp_ratio=2.0,
        mlp_multiple=8,
        timestep_width=8,
        max_action_dim=7,
        horizon=6,
        flow_steps=4,
    ),
    depth_grid=3,
    depth_gate=DepthGate.NONE,
    cameras=("front",),
)

RECIPE = {
    "from": "checkpoint",
    "seed": 3,
    "steps": 8,
    "batch_size": 4,
    "micro_batch_size": 4,
    "precision": "fp32",
    "data": {
        "arm": {"robot": "arm", "embodiment": "so101", "weight": 0.7},
        "asked": {"questions": "asked", "weight": 0.3},
    },
    "augmentation": "none",
    "action_tokenizer": None,
    "losses": {
        "language": 1.0,
        "flow": 1.0,
        "log_z": 1e-4,
        "token_weighting": "root_tokens",
        "earlier_layers": 0.0,
    },
    "flow": {
        "samples": 2,
        "insulation": False,
        "beta": [1.0, 1.5],
        "offset": 0.001,
        "scale": 0.999,
    },
    "depth": None,
    "trainable": "full",
    "optimizer": {
        "rates": {"vision": 1e-3, "connector": 1e-3, "decoder": 2e-3, "expert": 4e-3},
        "betas": [0.9, 0.95],
        "eps": 1e-6,
        "weight_decay": 0.0,
        "warmup_steps": 2,
        "final_share": 0.1,
        "clip_norm": 1.0,
    },
    "ema": None,
    "checkpoint_every": 3,
}


class DrawnExamples:
    """Stands in for Mixture: pictures, answers and chunks drawn from an example's number."""

    def __init__(self, settings, context) -> None:
        self._seed = context.seed
        self._names = list(settings.shares)
        self._poison = os.environ.get("POISONED_EXAMPLE")

    def example(self, number):
        """Draw one example."""
        from training.examples.example import Chunk, Example

        rng = np.random.default_rng((self._seed, number))
        acts = rng.random() < 0.7
        actions = np.sin(np.arange(6)[:, None] * rng.random(6)).astype(np.float32)
        if str(number) == self._poison:
            actions[2, 3] = np.nan
        return Example(
            number=number,
            source=self._names[0 if acts else 1],
            images=(rng.integers(0, 256, (42, 42, 3), np.uint8),),
            question="<|im_start|>user\npick the cube<|im_end|>\n<|im_start|>assistant\n",
            answer="the red cube is left of the bin"[: rng.integers(8, 31)] + "<|im_end|>",
            chunk=Chunk(actions, np.zeros(6, bool)) if acts else None,
        )


def make_checkpoint(folder: Path) -> Path:
    """Write a tiny checkpoint with random weights."""
    out = folder / "checkpoint"
    init_checkpoint(out, TINY, seed=0, dtype="fp32", max_shard_mib=100)
    return out


def write_recipe(folder: Path, **changes: object) -> Path:
    """Write the recipe with some top-level keys changed, for the checkpoint in `folder`."""
    path = folder / "recipe.yaml"
    values = {**RECIPE, "from": str(folder / "checkpoint"), **changes}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def losses(run: Path) -> list[dict]:
    """Read the figures of a run that do not depend on the clock."""
    from training.trainer.run_log import MEASURED, read_log

    return [
        {key: value for key, value in entry.items() if key not in MEASURED}
        for entry in read_log(run / "log.jsonl")
    ]


def main(arguments: list[str]) -> int:
    """Run molmoact-train with drawn examples."""
    torch.set_num_threads(1)
    import training.trainer.stage as stage
    from training.cli import main as train

    stage.Mixture = DrawnExamples
    return train(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
