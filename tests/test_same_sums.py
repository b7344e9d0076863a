"""A row's keys, values and logits must not hang on the pass that carries it, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import load_cases
from test_reference import play

from edge.policy import Policy


@pytest.fixture(scope="module", params=["fp32", "int8", "int4", "int8-int4"])
def decoder(request, bundles):
    """A decoder whose cache holds the prompt of a real call, and the number of its rows."""
    policy = Policy.open(bundles(recipe=request.param))
    case = next(case for case in load_cases("two_cameras") if case.depth == "off")
    prompt_tokens = play(policy, case).prompt_tokens
    return policy._decoder, prompt_tokens


def settle_in_passes(decoder, prompt_tokens, tokens, cuts):
    decoder.truncate(prompt_tokens)
    rows = [
        decoder.extend(part, np.arange(len(part))) for part in np.split(tokens, cuts) if len(part)
    ]
    cache = [np.concatenate(pair, axis=-1)[:, prompt_tokens:] for pair in decoder.keys_values()]
    return np.concatenate(rows), np.concatenate(cache)


@pytest.mark.parametrize("cuts", [[2], [2, 4, 6, 8], [12], [4, 14]])
def test_a_span_comes_out_the_same_however_it_is_cut_into_even_passes(decoder, cuts):
    engine, prompt_tokens = decoder
    tokens = np.random.default_rng(3).integers(0, 100, engine._span_width // 2 * 2)
    whole = settle_in_passes(engine, prompt_tokens, tokens, [])
    parts = settle_in_passes(engine, prompt_tokens, tokens, cuts)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_passes_of_one_row_come_out_the_same_where_rows_need_not_be_paired(decoder):
    engine, prompt_tokens = decoder
    if engine.row_pairs:
        pytest.skip("block-wise weights: the span only makes passes of an even number of rows")
    tokens = np.random.default_rng(4).integers(0, 100, 9)
    whole = settle_in_passes(engine, prompt_tokens, tokens, [])
    parts = settle_in_passes(engine, prompt_tokens, tokens, [1, 2, 3, 6])
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("prompt_rows", [40, 41])
def test_rows_that_ride_on_the_prompt_come_out_the_same(decoder, prompt_rows):
    engine, _ = decoder
    if not engine.prefill_decides:
        pytest.skip("the prompt has weights of its own")
    random = np.random.default_rng(5)
    tokens = random.integers(0, 100, 8)
    prompt = random.standard_normal((prompt_rows, engine._model.width)).astype(np.float32)
    riding = np.concatenate([prompt, engine._embeddings.rows(tokens)])
    image_mask = np.arange(prompt_rows) < 20
    engine.prefill(riding[: prompt_rows + 1], image_mask, np.zeros(0, np.int64))
    apart = settle_in_passes(engine, prompt_rows, tokens, [])
    logits = engine.prefill(riding, image_mask, prompt_rows + np.arange(len(tokens)))
    assert engine.length == len(riding)
    np.testing.assert_array_equal(apart[0], logits)
    cache = [np.concatenate(pair, axis=-1)[:, prompt_rows:] for pair in engine.keys_values()]
    np.testing.assert_array_equal(apart[1], np.concatenate(cache))
