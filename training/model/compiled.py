"""Blocks of the model compiled by PyTorch: the same steps with fewer passes over memory.

Code for any shape gained nothing on a CPU (0.53 s of its time for a pass of 16, 0.54 s without),
code for one did (0.44 s; all beside other work), so batches of text are filled up to few lengths
(`LENGTHS`).
"""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from training.errors import TrainingError

LENGTHS = 16  # tokens: batches are as long as a multiple of this
BLOCKS = ("MolmoAct2VisionBlock", "MolmoAct2DecoderLayer", "ActionExpertBlock")


def compile_blocks(model: nn.Module) -> int:
    """Let every transformer block be compiled at its first call; return how many there are.

    Parameters keep their names. Raises TrainingError where PyTorch would find no compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if not torch.accelerator.is_available() and shutil.which(compiler) is None:
        raise TrainingError(
            f"compile: there is no C++ compiler {compiler}; install one (g++), or set compile=false"
        )
    blocks = [block for block in model.modules() if type(block).__name__ in BLOCKS]
    for block in blocks:
        block.compile()
    return len(blocks)
