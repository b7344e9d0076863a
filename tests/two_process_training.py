"""What one launch of several processes does: train with replicas, then with sharded parameters,
then with shards in bf16.

    accelerate launch --multi_gpu --num_processes 2 tests/two_process_training.py RECIPE FOLDER

Accelerate shards on GPUs only; PyTorch's sharding itself runs on CPUs too, so the type of
distribution is set by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tiny_training
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

import training.trainer.run as run
from training.trainer.model_shape import BLOCK_CLASSES

plain = run._accelerator


def sharding(recipe):
    """Make an accelerator that shards the model over the processes."""
    accelerator = plain(recipe)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(BLOCK_CLASSES),
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    assert accelerator.is_fsdp2
    assert accelerator.num_processes == 2
    return accelerator


def main(recipe: str, folder: Path) -> int:
    """Train twice; returns the worst exit status."""

    def train(name, *options):
        AcceleratorState._reset_state()
        arguments = ["run", recipe, "--out", str(folder / name), "--workers", "0", *options]
        return tiny_training.main(arguments)

    statuses = [train("replicas")]
    run._accelerator = sharding
    statuses.append(train("shards"))
    statuses.append(train("bf16", "--set", "precision=bf16", "--checkpoint-activations"))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
