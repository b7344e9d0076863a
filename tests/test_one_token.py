"""Decoding one token, next to reads of memory."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from benchmarks.one_token import measure_one_token, one_token_s
from edge.policy import Policy


def seen(policy):
    pictures = [np.full((60, 80, 3), 90, np.uint8)] * 2
    return policy.act(pictures, "pick up the cube", np.zeros(policy_state_dim(policy)))


def policy_state_dim(policy):
    return next(iter(policy.bundle.tags.values())).state.dim


def test_tokens_are_decoded_after_the_prompt_and_leave_the_cache_to_the_next(bundles, monkeypatch):
    policy = Policy.open(bundles())
    prompt_tokens = seen(policy).prompt_tokens
    lengths, extend = [], policy._decoder.extend

    def watched(tokens, rows):
        lengths.append(policy._decoder.length)
        return extend(tokens, rows)

    monkeypatch.setattr(policy._decoder, "extend", watched)
    assert len(one_token_s(policy, prompt_tokens, passes=5)) == 5
    assert set(lengths) == {prompt_tokens}


def test_the_share_is_of_bytes_that_the_decoder_stores(bundles, monkeypatch):
    monkeypatch.setattr("benchmarks.ceiling._READ_BYTES", 1 << 20)
    policy = Policy.open(bundles())
    token = measure_one_token(policy, seen(policy).prompt_tokens, threads=1)
    stored = (bundles() / "decoder.onnx.data").stat().st_size
    assert 0.8 * stored < token.weights_bytes <= stored
    assert token.share > 0
    assert token.read_gb_s > 0
