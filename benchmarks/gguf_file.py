"""Write a GGUF file with random Q4_0 weights: a decoder of a given shape for llama.cpp to run.

MolmoAct2's decoder is a Qwen3 decoder as far as llama.cpp is concerned (RMS norms, a norm per head
on queries and keys, grouped heads, rotary embedding, SwiGLU), so the file says `qwen3`. Only speed
is asked of it: blocks are random, and one is written again and again, which costs llama.cpp exactly
what trained ones would. Layout: GGUF version 3 (ggml, docs/gguf.md); block: ggml `block_q4_0`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from quantization.config import CheckpointConfig

BLOCK_WEIGHTS = 32
BLOCK_BYTES = 18  # one half-precision scale, then 32 weights of 4 bits
_ALIGNMENT = 32
_F32, _Q4_0 = 0, 2  # ggml_type
_UINT32, _FLOAT32, _STRING = 4, 6, 8  # gguf_type
_FILE_TYPE_Q4_0 = 2  # llama_ftype
_WEIGHT_RMS = 0.02
_LEVELS_RMS = 4.61  # of the numbers -8..7, equally often
_REPEATED_BLOCKS = 1 << 16


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What sizes a decoder; `vocab` rows in the embedding table and again in the head."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab: int
    rope_theta: float
    norm_eps: float
    max_positions: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dims: tuple[int, ...]  # innermost first, as the file states them
    kind: int

    @property
    def size_bytes(self) -> int:
        count = int(np.prod(self.dims))
        return count * 4 if self.kind == _F32 else count // BLOCK_WEIGHTS * BLOCK_BYTES


def decoder_shape(config: CheckpointConfig) -> DecoderShape:
    """Give a checkpoint's decoder, with a head of as many rows as there are depth codes."""
    text = config.text
    return DecoderShape(
        width=text.width,
        layers=text.layers,
        heads=text.heads,
        kv_heads=text.kv_heads,
        head_dim=text.head_dim,
        mlp_width=text.mlp_width,
        vocab=max(config.depth_codes, 1),
        rope_theta=text.rope_theta,
        norm_eps=text.norm_eps,
        max_positions=text.max_positions,
    )


def misfit(shape: DecoderShape) -> str | None:
    """Say why Q4_0 cannot hold this shape, None when it can: rows must be whole blocks."""
    for tensor in _tensors(shape):
        if tensor.kind == _Q4_0 and tensor.dims[0] % BLOCK_WEIGHTS:
            return (
                f"{tensor.name} has rows of {tensor.dims[0]} weights; Q4_0 needs multiples of "
                f"{BLOCK_WEIGHTS}"
            )
    return None


def write_random_decoder(path: Path, shape: DecoderShape) -> int:
    """Write the file and return its size in bytes; needs about 1 MiB of memory.

    The shape must fit: see `misfit`.
    """
    tensors = list(_tensors(shape))
    assert misfit(shape) is None
    entries = [_entry(key, value) for key, value in _metadata(shape).items()]
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)))
        file.writelines(entries)
        offset = 0
        for tensor in tensors:
            file.write(_text(tensor.name) + struct.pack("<I", len(tensor.dims)))
            file.write(struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims))
            file.write(struct.pack("<IQ", tensor.kind, offset))
            offset += _aligned(tensor.size_bytes)
        _pad(file)
        blocks = _random_blocks()
        for tensor in tensors:
            if tensor.kind == _F32:
                file.write(np.ones(tensor.dims, np.float32).tobytes())
            else:
                _write_repeated(file, blocks, tensor.size_bytes)
            _pad(file)
        return file.tell()


def _tensors(shape: DecoderShape) -> Iterator[_Tensor]:
    width, mlp = shape.width, shape.mlp_width
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield _Tensor("token_embd.weight", (width, shape.vocab), _Q4_0)
    yield _Tensor("output_norm.weight", (width,), _F32)
    yield _Tensor("output.weight", (width, shape.vocab), _Q4_0)
    for layer in range(shape.layers):
        for name, dims in (
            ("attn_norm", (width,)),
            ("attn_q", (width, queries)),
            ("attn_k", (width, keys)),
            ("attn_v", (width, keys)),
            ("attn_q_norm", (shape.head_dim,)),
            ("attn_k_norm", (shape.head_dim,)),
            ("attn_output", (queries, width)),
            ("ffn_norm", (width,)),
            ("ffn_gate", (width, mlp)),
            ("ffn_up", (width, mlp)),
            ("ffn_down", (mlp, width)),
        ):
            yield _Tensor(f"blk.{layer}.{name}.weight", dims, _F32 if len(dims) == 1 else _Q4_0)


def _metadata(shape: DecoderShape) -> dict[str, str | int | float]:
    return {
        "general.architecture": "qwen3",
        "general.name": "random weights",
        "general.file_type": _FILE_TYPE_Q4_0,
        "general.alignment": _ALIGNMENT,
        "qwen3.block_count": shape.layers,
        "qwen3.context_length": shape.max_positions,
        "qwen3.embedding_length": shape.width,
        "qwen3.feed_forward_length": shape.mlp_width,
        "qwen3.attention.head_count": shape.heads,
        "qwen3.attention.head_count_kv": shape.kv_heads,
        "qwen3.attention.key_length": shape.head_dim,
        "qwen3.attention.value_length": shape.head_dim,
        "qwen3.attention.layer_norm_rms_epsilon": float(shape.norm_eps),
        "qwen3.rope.freq_base": float(shape.rope_theta),
        "qwen3.vocab_size": shape.vocab,
        "tokenizer.ggml.model": "none",  # token ids go in, nothing is spelled
    }


def _entry(key: str, value: str | int | float) -> bytes:
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, int):
        return _text(key) + struct.pack("<II", _UINT32, value)
    return _text(key) + struct.pack("<If", _FLOAT32, value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _random_blocks() -> bytes:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (_REPEATED_BLOCKS, BLOCK_BYTES), np.uint8)
    scales = random.uniform(0.5, 1.5, _REPEATED_BLOCKS) * (_WEIGHT_RMS / _LEVELS_RMS)
    blocks[:, :2] = scales.astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.tobytes()


def _write_repeated(file: BinaryIO, content: bytes, size_bytes: int) -> None:
    for _ in range(size_bytes // len(content)):
        file.write(content)
    file.write(content[: size_bytes % len(content)])


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _pad(file: BinaryIO) -> None:
    position = file.tell()
    file.write(bytes(_aligned(position) - position))
