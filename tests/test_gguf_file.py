"""The file that llama.cpp is given is one that it runs, of the shape that was asked."""

from __future__ import annotations

import struct

import numpy as np
import pytest

pytest.importorskip("onnx")  # benchmarks need the workstation or the demo environment

import dataclasses

from benchmarks.gguf_file import (
    BLOCK_BYTES,
    BLOCK_WEIGHTS,
    DecoderShape,
    misfit,
    write_random_decoder,
)

SHAPE = DecoderShape(
    width=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=32,
    mlp_width=96,
    vocab=48,
    rope_theta=10_000.0,
    norm_eps=1e-6,
    max_positions=256,
)
MATRIX_WEIGHTS = 2 * 64 * 48 + 2 * (64 * (128 + 64 + 64) + 128 * 64 + 3 * 64 * 96)


def test_the_file_is_its_blocks_and_little_else(tmp_path):
    size_bytes = write_random_decoder(tmp_path / "d.gguf", SHAPE)
    assert size_bytes == (tmp_path / "d.gguf").stat().st_size
    blocks_bytes = MATRIX_WEIGHTS // BLOCK_WEIGHTS * BLOCK_BYTES
    assert blocks_bytes < size_bytes < blocks_bytes + 8192


def test_the_header_counts_the_tensors(tmp_path):
    write_random_decoder(tmp_path / "d.gguf", SHAPE)
    magic, version, tensors, _ = struct.unpack("<4sIQQ", (tmp_path / "d.gguf").read_bytes()[:24])
    assert (magic, version, tensors) == (b"GGUF", 3, 3 + 2 * 11)


def test_rows_that_are_no_whole_blocks_do_not_fit():
    assert misfit(SHAPE) is None
    problem = misfit(dataclasses.replace(SHAPE, mlp_width=100))
    assert problem == ("blk.0.ffn_down.weight has rows of 100 weights; Q4_0 needs multiples of 32")


def test_llama_cpp_runs_the_file_and_the_context_is_cut_back_each_time(tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    from benchmarks.peer_llama import LlamaModel

    write_random_decoder(tmp_path / "d.gguf", SHAPE)
    model = LlamaModel(tmp_path / "d.gguf", SHAPE.vocab)
    assert llama_cpp.llama_model_n_params(model._model) == MATRIX_WEIGHTS + 64 * 5 + 2 * 2 * 32
    model.open_context(40, 16, 1)
    assert model.prefill_s() > 0
    for _ in range(3):
        assert model.one_token_s() > 0
        memory = llama_cpp.llama_get_memory(model._context)
        assert llama_cpp.llama_memory_seq_pos_max(memory, 0) == 40
    logits = llama_cpp.llama_get_logits(model._context)[: SHAPE.vocab]
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0
    model.close()
