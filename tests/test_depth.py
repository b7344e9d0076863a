"""Draft and verify gives the codes of the token-by-token reference, whatever draft and window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.depth import DepthSpan, SpanTokens, settle

CODES, START, FIRST, END = 5, 100, 200, 101
IDS = SpanTokens(START, FIRST, END)
PROMPT = [1, 2, 3]


class FakeDecoder:
    """Prefers a code that depends on every token before: any wrong prefix shows."""

    def __init__(self, tokens):
        self.tokens = list(tokens)
        self.rows_fed = 0

    @property
    def length(self):
        return len(self.tokens)

    def extend(self, tokens, rows):
        past = len(self.tokens)
        self.tokens += [int(token) for token in tokens]
        self.rows_fed += len(tokens)
        logits = np.zeros((len(rows), CODES))
        for index, row in enumerate(rows):
            logits[index, preferred(self.tokens[: past + row + 1])] = 1
        return logits

    def truncate(self, length):
        del self.tokens[length:]


def preferred(prefix):
    value = 7
    for token in prefix:
        value = (value * 31 + token) % 10007
    return (value // 3) % CODES


def one_by_one(draft, changed):
    tokens, codes = [*PROMPT, START], []
    for old, asked in zip(draft, changed, strict=True):
        codes.append(preferred(tokens) if asked else old)
        tokens.append(FIRST + codes[-1])
    return codes


def run(draft, changed, window):
    span = DepthSpan(np.array(draft), np.array(changed, bool), IDS, window)
    decoder = FakeDecoder(PROMPT)
    tokens, rows = span.next_pass()
    span.accept(decoder.extend(tokens, rows))
    settle(decoder, span, len(PROMPT))
    return span, decoder


spans = st.integers(1, 12).flatmap(
    lambda cells: st.tuples(
        st.lists(st.integers(0, CODES - 1), min_size=cells, max_size=cells),
        st.lists(st.booleans(), min_size=cells, max_size=cells),
    )
)


@given(spans, st.one_of(st.none(), st.integers(0, 14)))
def test_codes_and_cache_are_those_of_one_by_one_decoding(span_input, window):
    draft, changed = span_input
    expected = one_by_one(draft, changed)
    span, decoder = run(draft, changed, window)
    assert span.codes.tolist() == expected
    assert decoder.tokens == [*PROMPT, START, *[FIRST + code for code in expected], END]


@given(spans)
def test_an_unbounded_window_takes_one_pass_plus_one_for_each_moved_code(span_input):
    draft, changed = span_input
    span, _ = run(draft, changed, None)
    moved = sum(new != old for new, old in zip(span.codes, draft, strict=True))
    assert span.moved_count == moved
    assert span.passes <= 1 + moved


@given(spans, st.integers(0, 14))
def test_a_window_bounds_the_unsettled_tokens_of_a_pass(span_input, window):
    draft, changed = span_input
    span = DepthSpan(np.array(draft), np.array(changed, bool), IDS, window)
    decoder = FakeDecoder([*PROMPT])
    while not span.done:
        decoder.truncate(len(PROMPT) + span.fed)
        tokens, rows = span.next_pass()
        if len(rows):
            assert len(tokens) - rows[0] - 1 <= window
            if len(tokens) + len(decoder.tokens) - len(PROMPT) < span.length:
                assert rows[-1] == len(tokens) - 1  # the last row is one that was asked for
        span.accept(decoder.extend(tokens, rows))


def test_window_zero_feeds_each_settled_token_once():
    cells = 9
    span, decoder = run([0] * cells, [True] * cells, 0)
    assert decoder.rows_fed == cells + 2
    assert span.passes == cells + 1


@pytest.mark.parametrize("cells", [1, 4, 100])
def test_nothing_changed_takes_one_pass_and_asks_for_no_row(cells):
    span = DepthSpan(np.zeros(cells, int), np.zeros(cells, bool), IDS, None)
    tokens, rows = span.next_pass()
    assert len(tokens) == cells + 2
    assert len(rows) == 0
    span.accept(np.zeros((0, CODES)))
    assert span.done
