"""Draft and verify gives the codes of the token-by-token reference, whatever draft and window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.depth import DepthSpan, SpanTokens, settle
from edge.draft_window import Acceptance, FixedWindow, MeasuredWindow, Place, Source, Trust
from edge.pass_costs import PassCosts

CODES, START, FIRST, END = 5, 100, 200, 101
IDS = SpanTokens(START, FIRST, END, CODES)
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


def trust_in(before, clear=0.5, close=0.5, astray=0.5, agreed=0.5):
    return Trust(*(Acceptance(share, 1.0) for share in (before, clear, close, astray, agreed)))


def run(draft, changed, window, trust=None, prompt_decides=True, pairs=False):
    if window is None or isinstance(window, int):
        window = FixedWindow(window)
    draft = None if draft is None else np.array(draft)
    span = DepthSpan(draft, np.array(changed, bool), IDS, window, trust, pairs=pairs)
    decoder = FakeDecoder(PROMPT)
    tokens, rows = span.first_pass(prompt_decides=prompt_decides)
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


def measured(seconds, *shares):
    return MeasuredWindow(PassCosts((1, 4, 16), tuple(seconds)), trust_in(*shares))


seconds_and_shares = [st.floats(low, 1) for low in (1e-4, 0, 0)] + [st.floats(0.01, 0.99)] * 5
costs = st.tuples(*seconds_and_shares).map(
    lambda values: measured(np.cumsum(values[:3]), *values[3:])
)


@given(spans, costs, st.booleans(), st.booleans())
def test_a_measured_window_gives_the_same_codes_with_and_without_a_draft(
    span_input, window, blind, pairs
):
    draft, changed = span_input
    if blind:
        draft, changed = None, [True] * len(changed)
    expected = one_by_one(draft or [0] * len(changed), changed)
    span, decoder = run(draft, changed, window, window.trust, pairs=pairs)
    assert span.codes.tolist() == expected
    assert decoder.tokens == [*PROMPT, START, *[FIRST + code for code in expected], END]
    assert span.passes <= 1 + len(changed)


@given(spans, costs, st.booleans(), st.booleans(), st.booleans())
def test_a_text_that_goes_on_is_told_what_comes_after_the_settled_span(
    span_input, window, blind, pairs, prompt_decides
):
    draft, changed = span_input
    if blind:
        draft, changed = None, [True] * len(changed)
    span = DepthSpan(
        None if draft is None else np.array(draft),
        np.array(changed),
        IDS,
        window,
        window.trust,
        pairs=pairs,
        goes_on=True,
    )
    decoder = FakeDecoder(PROMPT)
    tokens, rows = span.first_pass(prompt_decides=prompt_decides)
    span.accept(decoder.extend(tokens, rows))
    settle(decoder, span, len(PROMPT))
    assert span.codes.tolist() == one_by_one(draft or [0] * len(changed), changed)
    assert span.logits_behind.argmax() == preferred(decoder.tokens)


@given(spans, costs, st.booleans())
def test_passes_of_paired_rows_are_even_and_the_codes_the_same(span_input, window, blind):
    draft, changed = span_input
    if blind:
        draft, changed = None, [True] * len(changed)
    counts = []

    class Counting(FakeDecoder):
        def extend(self, tokens, rows):
            counts.append(len(tokens))
            return super().extend(tokens, rows)

    given_draft = None if draft is None else np.array(draft)
    span = DepthSpan(given_draft, np.array(changed, bool), IDS, window, window.trust, pairs=True)
    decoder = Counting(PROMPT)
    settle(decoder, span, len(PROMPT))
    assert span.codes.tolist() == one_by_one(draft or [0] * len(changed), changed)
    assert decoder.tokens == [*PROMPT, START, *[FIRST + code for code in span.codes], END]
    assert not any(count % 2 for count in counts)


def test_cheap_rows_and_lucky_drafts_make_long_windows_dear_rows_and_bad_luck_short_ones():
    unsettled = np.arange(5, 100, 5)
    dear, cheap = (1.0, 4.0, 16.0), (1.0, 1.1, 1.5)

    def stop(seconds, share, told=None):
        place = Place(5, 102, unsettled, np.full(unsettled.shape, Source.BEFORE), in_prefill=False)
        return measured(seconds, share, *[share if told is None else told] * 4).stop(place)

    assert stop(cheap, 0.99) == 102
    assert stop(dear, 0.01) == 6  # the one row that is surely needed
    assert stop(cheap, 0.01) < stop(cheap, 0.7) < stop(cheap, 0.99)
    assert stop(dear, 0.7) < stop(cheap, 0.7)
    assert stop(cheap, 0.01, told=0.9) == 96  # worth it for what the model says of all the others


def test_in_a_prefill_whose_rows_cost_nothing_more_everything_rides_along():
    cells = np.arange(100)
    place = Place(0, 102, cells, np.zeros(100, int), in_prefill=True)
    assert measured((1.0, 1.0, 1.0), 0.9).stop(place) == 102


def test_belief_in_drafts_follows_what_was_seen_lately():
    acceptance = Acceptance(1.0, 2.0)
    for _ in range(1000):
        acceptance.observe(True)
    assert acceptance.share > 0.98
    for _ in range(300):
        acceptance.observe(False)
    assert acceptance.share < 0.5


def test_without_a_draft_a_scene_of_one_depth_takes_few_passes():
    class OneDepth(FakeDecoder):
        def extend(self, tokens, rows):
            return super().extend(tokens, rows) * 0 + np.eye(CODES)[3]

    window = measured((1.0, 1.1, 1.5), 0.2)
    span = DepthSpan(None, np.ones(100, bool), IDS, window, window.trust)
    decoder = OneDepth(PROMPT)
    settle(decoder, span, len(PROMPT))
    assert span.codes.tolist() == [3] * 100
    assert span.passes < 30
    assert window.trust.shares.max() > 0.8


def test_what_the_model_says_behind_a_wrong_code_mends_the_draft():
    class FromThePictureAlone(FakeDecoder):
        """Prefers codes whatever was said before, as a model mostly does that sees the scene."""

        def extend(self, tokens, rows):
            first = len(self.tokens) - len(PROMPT)
            super().extend(tokens, rows)
            return np.eye(CODES)[(first + np.asarray(rows, int)) % CODES]

    def passes(trust):
        window = FixedWindow(None)
        span = DepthSpan(np.zeros(50, int), np.ones(50, bool), IDS, window, trust)
        settle(FromThePictureAlone(PROMPT), span, len(PROMPT))
        assert span.codes.tolist() == [cell % CODES for cell in range(50)]
        assert span.moved_count == 40
        return span.passes

    assert passes(None) == 41
    assert passes(trust_in(0.2, astray=0.9)) == 2


def test_pass_costs_follow_their_last_rise_beyond_what_was_measured():
    costs = PassCosts((1, 4, 16), (1.0, 1.6, 4.0))
    np.testing.assert_allclose(costs.seconds(np.array([1, 2, 10, 26])), [1.0, 1.2, 2.8, 6.0])
    assert costs.prefill_row_s == pytest.approx(0.2)


@given(spans)
def test_a_prompt_that_decides_nothing_carries_what_is_settled_before(span_input):
    draft, changed = span_input
    span, _ = run(draft, changed, None, prompt_decides=False)
    assert span.codes.tolist() == one_by_one(draft, changed)
    moved = sum(new != old for new, old in zip(span.codes, draft, strict=True))
    assert span.passes <= 2 + moved
    span = DepthSpan(np.array(draft), np.array(changed, bool), IDS, FixedWindow(None))
    tokens, rows = span.first_pass(prompt_decides=False)
    assert len(rows) == 0
    assert len(tokens) == (changed.index(True) if any(changed) else span.length)
    assert span.passes == bool(len(tokens))


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
    span = DepthSpan(np.array(draft), np.array(changed, bool), IDS, FixedWindow(window))
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
    span = DepthSpan(np.zeros(cells, int), np.zeros(cells, bool), IDS, FixedWindow(None))
    tokens, rows = span.first_pass(prompt_decides=True)
    assert len(tokens) == cells + 2
    assert len(rows) == 0
    span.accept(np.zeros((0, CODES)))
    assert span.done
