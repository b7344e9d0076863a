"""The robot's action tokenizer beside LeRobot's, on any chunk and any tokens."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge.action_tokens import ActionTokenizer, dct_matrix
from edge.errors import UndecodableActionsError

pytest.importorskip("lerobot.policies.molmoact2")
from lerobot.policies.molmoact2.molmoact2_hf_model import action_tokenizer as lerobot_tokenizer

FOLDER = Path(__file__).parent / "reference_openfast"
OURS = ActionTokenizer.open(FOLDER)
THEIRS = lerobot_tokenizer.UniversalActionProcessor.from_pretrained_local(str(FOLDER))
SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 8))
IDS = st.lists(st.one_of(st.integers(0, 520), st.integers(-2, 2**32)), max_size=60)
CHUNK = np.load(FOLDER / "cases.npz")["chunks"][0]


@st.composite
def chunks(draw):
    shape = draw(SHAPES)
    reach = draw(st.sampled_from([0.0625, 1.0, 3.0]))  # 3: below the least coefficient seen
    return draw(
        arrays(
            np.float32, shape, elements=st.floats(-reach, reach, width=32, allow_subnormal=False)
        )
    )


def lerobot_decode(ids, horizon, dim):
    """Return what LeRobot decodes, and whether it warned and gave zeros instead."""
    with mock.patch.object(lerobot_tokenizer.logger, "warning") as warning:
        decoded = THEIRS.decode([ids], time_horizon=horizon, action_dim=dim)[0]
    return decoded, warning.called


@settings(max_examples=200, deadline=None)
@given(chunks())
@example(CHUNK)
def test_any_chunk_gives_the_same_tokens(chunk):
    steps = dct_matrix(len(chunk)) @ chunk.astype(np.float64) * OURS.scale
    if np.any(np.abs(np.abs(steps % 1) - 0.5) < 1e-4):
        return  # float32, in which LeRobot transforms, may round a middle either way
    assert OURS.encode(chunk) == THEIRS(chunk)[0]


@settings(max_examples=200, deadline=None)
@given(chunks())
@example(CHUNK)
def test_any_encoded_chunk_decodes_alike(chunk):
    check_decoded_alike(OURS.encode(chunk), *chunk.shape)


@settings(max_examples=300, deadline=None)
@given(IDS, SHAPES)
@example([], (1, 1))
@example([-1], (1, 1))
@example([2**32], (1, 1))
@example([256] * 4, (1, 4))
def test_any_tokens_decode_alike_and_fail_alike(ids, shape):
    check_decoded_alike(ids, *shape)


@settings(max_examples=300, deadline=None)
@given(IDS)
def test_tokens_of_the_right_length_decode_alike(ids):
    length = len(OURS.tokenizer.decode([token for token in ids if 0 <= token < 2**32]))
    check_decoded_alike(ids, max(length, 1), 1)


def check_decoded_alike(ids, horizon, dim):
    expected, failed = lerobot_decode(ids, horizon, dim)
    assert OURS.decodable(ids, horizon, dim) is not failed
    if failed:
        with pytest.raises(UndecodableActionsError):
            OURS.decode(ids, horizon, dim)
    else:
        decoded = OURS.decode(ids, horizon, dim)
        np.testing.assert_allclose(
            decoded, expected, rtol=1e-6, atol=1e-6 * abs(expected).max() + 1e-7
        )
