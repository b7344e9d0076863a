"""LeRobot's MolmoAct2 policy and batches from its own processor, to compare training with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.molmoact2.configuration_molmoact2 import MolmoAct2Config
from lerobot.policies.molmoact2.modeling_molmoact2 import MolmoAct2Policy
from lerobot.policies.molmoact2.processor_molmoact2 import make_molmoact2_pre_post_processors

from training.examples.batch import Batch
from training.init.init_checkpoint import init_checkpoint
from training.init.sizes import NANO, DepthGate

ACTION_TOKENIZER = Path(__file__).parent / "reference_openfast"
CAMERAS = ("observation.images.front", "observation.images.wrist")
DIMS, HORIZON = 6, 30
INPUTS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "pixel_values",
    "image_token_pooling",
    "image_grids",
    "image_num_crops",
)


def ungated_nano(folder: Path) -> Path:
    """Write a random nano checkpoint without a depth gate: LeRobot's losses know of none."""
    size = dataclasses.replace(NANO, depth_gate=DepthGate.NONE)
    init_checkpoint(folder, size, seed=5, dtype="fp32", max_shard_mib=4)
    return folder


def public_policy(checkpoint: Path, **settings: object) -> MolmoAct2Policy:
    """Open a checkpoint as LeRobot does for training, in float32 on the CPU."""
    return MolmoAct2Policy(policy_config(checkpoint, **settings)).train()


def policy_config(checkpoint: Path, **settings: object) -> MolmoAct2Config:
    """Describe the policy to LeRobot; `settings` are fields of its configuration."""
    visual = PolicyFeature(type=FeatureType.VISUAL, shape=(3, 60, 80))
    features = dict.fromkeys(CAMERAS, visual)
    features["observation.state"] = PolicyFeature(type=FeatureType.STATE, shape=(DIMS,))
    return MolmoAct2Config(
        checkpoint_path=str(checkpoint),
        discrete_action_tokenizer=str(ACTION_TOKENIZER),
        input_features=features,
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(DIMS,))},
        model_dtype="float32",
        device="cpu",
        setup_type="single so101 arm",
        control_mode="absolute joint positions",
        **{"freeze_embedding": False, **settings},
    )


def public_batch(config: MolmoAct2Config, examples: int = 3, seed: int = 0) -> dict:
    """Draw observations and chunks, one of them past its episode's end; LeRobot packs them."""
    rng = np.random.default_rng(seed)
    quantiles = {"q01": torch.full((DIMS,), -50.0), "q99": torch.full((DIMS,), 50.0)}
    stats = {"observation.state": quantiles, "action": quantiles}
    pack, _ = make_molmoact2_pre_post_processors(config, dataset_stats=stats)
    tasks = ["Put the green cube in the bin.", "wipe", "open the DRAWER and close it!"]
    steps = rng.uniform(-4, 4, (examples, HORIZON, DIMS))
    past_end = torch.zeros(examples, HORIZON, dtype=torch.bool)
    past_end[-1, 20:] = True
    observations = {
        name: torch.from_numpy(rng.random((examples, 3, 60, 80), np.float32)) for name in CAMERAS
    }
    return pack(
        {
            **observations,
            "observation.state": torch.from_numpy(
                rng.uniform(-40, 40, (examples, DIMS)).astype(np.float32)
            ),
            "action": torch.from_numpy(np.cumsum(steps, axis=1).astype(np.float32)),
            "action_is_pad": past_end,
            "task": [tasks[index % len(tasks)] for index in range(examples)],
        }
    )


def as_batch(packed: dict, first_number: int = 0) -> Batch:
    """Give what LeRobot packed as our `Batch`."""
    count = len(packed["input_ids"])
    labels = packed.get("labels")
    return Batch(
        model_inputs={name: packed[name] for name in INPUTS if name in packed},
        labels=torch.full_like(packed["input_ids"], -100) if labels is None else labels,
        actions=packed["action"],
        dim_is_pad=packed["action_dim_is_pad"],
        horizon_is_pad=packed["action_horizon_is_pad"],
        has_actions=torch.ones(count, dtype=torch.bool),
        numbers=torch.arange(first_number, first_number + count),
        sources=("public",) * count,
    )
