"""Write safetensors files one tensor at a time, so that no model is ever whole in memory.

Format (safetensors specification): 8 bytes little-endian header length, a JSON header padded with
spaces to a multiple of 8, then the tensors' bytes in the order of their offsets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from training.init.tensor_layout import TensorSpec

BYTES_PER_VALUE = {"fp32": 4, "bf16": 2, "fp16": 2}
FORMAT_NAMES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
_VALUES_AT_ONCE = 1 << 22  # bounds what encoding needs beside the tensor itself

TensorSource = Callable[[TensorSpec], np.ndarray]


def write_checkpoint_weights(
    folder: Path,
    layout: Sequence[TensorSpec],
    source: TensorSource,
    *,
    dtype: str,
    max_shard_bytes: int,
) -> list[Path]:
    """Write `model.safetensors`, or shards and their index when the tensors exceed one shard.

    `source` gives each tensor as float32 when its turn comes; `dtype` is a key of BYTES_PER_VALUE.
    A tensor larger than a shard gets a shard of its own. Returns the weight files.
    """
    shards = _split(layout, max_shard_bytes // BYTES_PER_VALUE[dtype])
    if len(shards) == 1:
        path = folder / "model.safetensors"
        _write_file(path, shards[0], source, dtype)
        return [path]
    paths, weight_map = [], {}
    for number, shard in enumerate(shards, start=1):
        path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(path, shard, source, dtype)
        weight_map.update({spec.name: path.name for spec in shard})
        paths.append(path)
    parameters = sum(spec.elements for spec in layout)
    index = {
        "metadata": {
            "total_parameters": parameters,
            "total_size": parameters * BYTES_PER_VALUE[dtype],
        },
        "weight_map": dict(sorted(weight_map.items())),
    }
    text = json.dumps(index, indent=2) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return paths


def bf16_bits_from_float32(values: np.ndarray) -> np.ndarray:
    """Round finite float32 to bfloat16 (nearest, ties to even) and give the bits as uint16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    lowest_kept = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + lowest_kept) >> np.uint32(16)).astype(np.uint16)


def _split(layout: Sequence[TensorSpec], max_elements: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    used = 0
    for spec in layout:
        if shards[-1] and used + spec.elements > max_elements:
            shards.append([])
            used = 0
        shards[-1].append(spec)
        used += spec.elements
    return shards


def _write_file(path: Path, specs: Sequence[TensorSpec], source: TensorSource, dtype: str) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + spec.elements * BYTES_PER_VALUE[dtype]
        header[spec.name] = {
            "dtype": FORMAT_NAMES[dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for spec in specs:
            values = source(spec)
            assert values.shape == spec.shape, f"{spec.name}: {values.shape} != {spec.shape}"
            flat = values.reshape(-1)
            for first in range(0, flat.size, _VALUES_AT_ONCE):
                file.write(_encoded(flat[first : first + _VALUES_AT_ONCE], dtype))


def _encoded(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "bf16":
        return bf16_bits_from_float32(values).astype("<u2").tobytes()
    return values.astype("<f4" if dtype == "fp32" else "<f2").tobytes()
