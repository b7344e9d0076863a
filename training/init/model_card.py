"""README.md of a checkpoint: what it is and the command that makes it again."""

from __future__ import annotations

from training.init.sizes import ModelSize

WHOLE = """\
The layout of a released MolmoAct2 checkpoint with weights that nobody trained: the depth span ends,
its codes change with the picture, and actions are slow motions around the middle of the joint
ranges. It exercises everything and knows nothing."""
BACKBONE = """\
The layout of a released MolmoAct2 checkpoint without an action expert, with weights that nobody
trained: where training begins. Post-training grafts the expert."""


def model_card(
    size: ModelSize, *, seed: int, dtype: str, max_shard_mib: float, parameters: dict[str, int]
) -> str:
    """Write the card of an untrained checkpoint."""
    table = "\n".join(f"| {part} | {count:,} |" for part, count in parameters.items())
    what = WHOLE if size.has_expert else BACKBONE
    return f"""# MolmoAct2, size {size.name}, random weights

{what}

Made by

    molmoact-train init OUT --size {size.name} --seed {seed} --dtype {dtype} \\
        --max-shard-mib {max_shard_mib:g}{"" if size.has_expert else " --without-expert"}

which gives the same bytes on every machine.

| part | parameters |
|---|---|
{table}
| all | {sum(parameters.values()):,} |
"""
