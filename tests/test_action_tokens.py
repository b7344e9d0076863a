"""Action chunks as tokens, without the reference at hand: what it once returned, and bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge.action_tokens import ActionTokenizer, dct_matrix, language_ids
from edge.errors import ActionTokensError, UndecodableActionsError

FOLDER = Path(__file__).parent / "reference_openfast"
NANO = Path(__file__).parent.parent / "checkpoints" / "nano"
HORIZON, DIM = 30, 6


@pytest.fixture(scope="module")
def tokens():
    return ActionTokenizer.open(FOLDER)


@pytest.fixture(scope="module")
def cases():
    with np.load(FOLDER / "cases.npz") as file:
        return dict(file)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "openfast")


def test_reference_chunks_give_the_reference_tokens(tokens, cases):
    assert len(cases["chunks"]) == 24
    for index, chunk in enumerate(cases["chunks"]):
        assert tokens.encode(chunk) == cases[f"ids_{index}"].tolist()


def test_reference_tokens_give_the_reference_actions(tokens, cases):
    for index, expected in enumerate(cases["decoded"]):
        decoded = tokens.decode(cases[f"ids_{index}"], HORIZON, DIM)
        assert decoded.dtype == np.float32
        np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("horizon", [1, 2, 10, 15, 30])
def test_the_transform_keeps_lengths_and_its_transpose_undoes_it(horizon):
    matrix = dct_matrix(horizon)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(horizon), atol=1e-12)
    level = matrix @ np.ones(horizon)
    np.testing.assert_allclose(level, np.eye(horizon)[0] * horizon**0.5, atol=1e-12)


def test_a_chunk_comes_back_within_the_steps_of_its_coefficients(tokens, cases):
    chunk = cases["chunks"][0]
    back = tokens.decode(tokens.encode(chunk), HORIZON, DIM)
    assert np.abs(dct_matrix(HORIZON) @ (back - chunk)).max() <= 0.5 / tokens.scale + 1e-6


def test_a_coefficient_below_the_smallest_seen_is_clipped_to_it(tokens):
    chunk = np.full((HORIZON, DIM), -1.5)  # its mean needs coefficient -82; -54 is the least
    back = tokens.decode(tokens.encode(chunk), HORIZON, DIM)
    np.testing.assert_allclose(back, tokens.min_token / tokens.scale / HORIZON**0.5, atol=1e-6)


@pytest.mark.parametrize("ids", [[], [0], [5] * 4000, [-1], [2**32]])
def test_tokens_that_stand_for_no_chunk_are_refused(tokens, ids):
    assert not tokens.decodable(ids, HORIZON, DIM)
    with pytest.raises(UndecodableActionsError):
        tokens.decode(ids, HORIZON, DIM)


def test_the_refusal_counts_tokens_and_coefficients(tokens, cases):
    ids = cases["ids_0"].tolist()
    assert tokens.decodable(ids, HORIZON, DIM)
    with pytest.raises(UndecodableActionsError, match="180 coefficients; 210 are needed"):
        tokens.decode(ids, HORIZON, DIM + 1)


def test_tokens_that_the_tokenizer_has_not_are_skipped(tokens, cases):
    ids = cases["ids_0"].tolist()
    np.testing.assert_array_equal(
        tokens.decode([*ids, tokens.size + 7], HORIZON, DIM), tokens.decode(ids, HORIZON, DIM)
    )


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros(6), r"shape \(6,\)"),
        (np.zeros((0, 6)), r"shape \(0, 6\)"),
        (np.zeros((1, 30, 6)), r"shape \(1, 30, 6\)"),
        (np.full((30, 6), np.nan), "nan at step 0, dim 0"),
        (np.full((1, 1), 5600.0), "coefficient 56000, .* normalise"),
        (np.full((1, 1), 1e9), "coefficient 10000000000, .* normalise"),
    ],
)
def test_a_chunk_that_cannot_be_written_is_refused(tokens, chunk, message):
    with pytest.raises(ActionTokensError, match=message):
        tokens.encode(chunk)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", 0),
        ("scale", "10"),
        ("scale", None),
        ("min_token", 1.5),
        ("min_token", None),
        ("vocab_size", 0),
        ("time_horizon", -1),
        ("action_dim", True),
    ],
)
def test_a_wrong_value_in_the_settings_is_refused_by_name(folder, key, value):
    path = folder / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ActionTokensError, match=rf"processor_config.json: {key} is "):
        ActionTokenizer.open(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("content", [None, "", "[]", "{", "{}"])
def test_a_damaged_folder_is_refused_with_the_file(folder, name, content):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ActionTokensError, match=name):
        ActionTokenizer.open(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ActionTokensError, match=r"missing; fit or copy the action tokenizer again"):
        ActionTokenizer.open(tmp_path / "absent")


def test_a_decoder_that_tidies_spaces_is_refused(folder):
    (folder / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
    with pytest.raises(ActionTokensError, match="clean_up_tokenization_spaces"):
        ActionTokenizer.open(folder)


def test_a_tokenizer_for_several_robots_has_no_horizon_and_no_dim(folder):
    path = folder / "processor_config.json"
    config = json.loads(path.read_text()) | {"time_horizon": None}
    del config["action_dim"]
    path.write_text(json.dumps(config))
    opened = ActionTokenizer.open(folder)
    assert (opened.horizon, opened.dim) == (None, None)


def test_truncation_and_padding_in_the_file_change_nothing(folder, cases):
    text = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text.enable_truncation(3)
    text.enable_padding(length=500)
    text.save(str(folder / "tokenizer.json"))
    assert ActionTokenizer.open(folder).encode(cases["chunks"][0]) == cases["ids_0"].tolist()


def test_each_action_token_is_one_token_of_the_language_model(tokens, cases):
    language = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    assert language.token_to_id("<action_2047>") is not None
    assert language.token_to_id("<action_2048>") is None
    ids = language_ids(language, tokens)
    assert ids.shape == (tokens.size,)
    assert len(set(ids.tolist())) == tokens.size
    chunk = cases["ids_0"].tolist()
    assert language.encode("".join(f"<action_{token}>" for token in chunk)).ids == list(ids[chunk])


def test_a_language_model_with_too_few_action_tokens_is_refused(tokens):
    reference = Path(__file__).parent / "reference" / "two_cameras" / "checkpoint"
    language = Tokenizer.from_file(str(reference / "tokenizer.json"))
    with pytest.raises(
        ActionTokensError, match=r"512 tokens, .* has no <action_48>; .* at most 48"
    ):
        language_ids(language, tokens)
