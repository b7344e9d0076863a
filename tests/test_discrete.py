"""Discrete actions: the reference's tokens from raw pictures on, and one clear line otherwise."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import REFERENCE, edit_manifest, load_cases
from test_reference import ACTION_TOLERANCE, joint_ranges
from tokenizers import Tokenizer, decoders, models

from edge.action_span import ActionSpan
from edge.bundle import open_bundle
from edge.cli import main as edge_main
from edge.errors import BundleError, ObservationError, UndecodableActionsError
from edge.policy import Policy
from quantization.build import build_bundle
from quantization.cli import main as quantize_main

MODEL = "action_tokens"
CASES = load_cases(MODEL, "discrete")


@pytest.fixture(scope="module")
def tokens_only(tmp_path_factory):
    """Give the bundle of the checkpoint as if it had been trained on tokens alone."""
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = tmp_path_factory.mktemp("tokens_only")
    checkpoint = folder / "checkpoint"
    shutil.copytree(REFERENCE / MODEL / "checkpoint", checkpoint)
    weights = safetensors.load_file(checkpoint / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "action_expert" not in name}
    safetensors.save_file(kept, checkpoint / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"add_action_expert": False, "action_mode": "discrete"}
    del config["action_expert_config"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    build_bundle(checkpoint, folder / "bundle", "fp32")
    return folder / "bundle"


def play(policy, case, **changes):
    observed = case.images, case.meta["task"], case.arrays["state"], case.meta["norm_tag"]
    return policy.act(*observed, **{"depth": case.depth, **changes})


def written_by_reference(case):
    """Tokens behind the depth span, which has start, cells and end."""
    tokens = case.arrays["generated_token_ids"][0]
    return tokens if case.depth == "off" else tokens[case.arrays["depth_codes"].size + 2 :]


def check_against_reference(policy, **changes):
    for case in CASES:
        result = play(policy, case, **changes)
        np.testing.assert_array_equal(result.action_tokens, written_by_reference(case))
        expected = case.arrays["actions"][0]
        assert (result.actions.shape, result.actions.dtype) == (expected.shape, np.float32)
        error = np.abs(result.actions - expected) / joint_ranges(MODEL)
        assert error.max() <= ACTION_TOLERANCE / 100, case.name
        if case.depth == "off":
            assert result.depth_codes is None
        else:
            np.testing.assert_array_equal(result.depth_codes, case.arrays["depth_codes"][0])


def test_fp32_bundle_writes_the_tokens_of_the_reference(bundles):
    check_against_reference(Policy.open(bundles(MODEL), actions="discrete"))


def test_one_call_may_differ_from_what_the_policy_was_opened_for(bundles):
    policy = Policy.open(bundles(MODEL))
    assert policy.actions == "continuous"
    check_against_reference(policy, actions="discrete")
    assert play(policy, CASES[0]).action_tokens is None


@pytest.mark.parametrize("profile", [None, "so101"])
@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4", "int8-int4"])
def test_no_depth_draft_changes_the_tokens_of_any_recipe(recipe, profile, bundles):
    policy = Policy.open(bundles(MODEL, recipe), profile, actions="discrete")
    policy._action_span.chunk = lambda written, horizon, dim: np.zeros((horizon, dim))
    policy._action_span.write = limited(policy._action_span)
    case = next(case for case in CASES if case.depth == "full")
    first, random = play(policy, case), np.random.default_rng(0)
    for wrong_cells in (0, 1, 4, 9):
        picture, codes = policy._previous
        draft = codes.copy()
        cells = random.permutation(len(draft))[:wrong_cells]
        draft[cells] = random.integers(0, policy.bundle.manifest.model.depth_codes, wrong_cells)
        policy._previous = picture, draft
        again = play(policy, case)
        np.testing.assert_array_equal(again.depth_codes, first.depth_codes)
        np.testing.assert_array_equal(again.action_tokens, first.action_tokens)


def limited(span):
    """Write 12 tokens whatever they are: weights with errors may never come to an end."""

    def write(decoder, logits, horizon):
        tokens = []
        for _ in range(12):
            tokens.append(span._head[logits[span._first_row :].argmax()])
            logits = decoder.extend(np.array(tokens[-1:]), np.zeros(1, np.int64))[0]
        return np.array(tokens)

    return write


def test_a_checkpoint_without_an_expert_builds_opens_and_writes_the_same(tokens_only, capsys):
    check_against_reference(Policy.open(tokens_only))
    assert not (tokens_only / "expert.onnx").exists()
    with pytest.raises(ObservationError, match="this bundle has no continuous actions"):
        Policy.open(tokens_only, actions="continuous")
    with pytest.raises(ObservationError, match="use actions='discrete'"):
        play(Policy.open(tokens_only), CASES[0], actions="continuous")
    assert quantize_main(["verify", str(tokens_only)]) == 0
    assert edge_main(["inspect", str(tokens_only)]) == 0
    assert "as 2048 tokens" in capsys.readouterr().out


def test_a_longer_answer_than_the_cache_has_room_for_comes_out_the_same(bundles, monkeypatch):
    monkeypatch.setattr("edge.onnx_engine._CACHE_STEP_ROWS", 1)
    check_against_reference(Policy.open(bundles(MODEL), actions="discrete"))


def test_what_a_call_cannot_do_is_refused(bundles):
    policy = Policy.open(bundles(MODEL))
    with pytest.raises(ObservationError, match="committed needs continuous actions"):
        play(policy, CASES[0], actions="discrete", committed=np.zeros((1, 6)))
    with pytest.raises(ObservationError, match="actions is 'both'; choose continuous, discrete"):
        play(policy, CASES[0], actions="both")
    with pytest.raises(ObservationError, match="this bundle has no discrete actions"):
        Policy.open(bundles(), actions="discrete")


class Saying:
    """A decoder that says some tokens, then the last one for ever."""

    def __init__(self, span, tokens):
        self.rows = [span._first_row + int(np.argmax(span._head == token)) for token in tokens]
        self.count = span._first_row + len(span._head)

    def extend(self, tokens, rows):
        del tokens, rows
        return self.logits()[None]

    def logits(self):
        row = self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]
        return np.eye(self.count)[row]


def test_an_answer_without_an_end_is_refused_after_sixteen_tokens_an_action(bundles):
    span, ids = span_of(bundles)
    decoder = Saying(span, [ids.action_start, ids.action_first])
    with pytest.raises(UndecodableActionsError, match="128 action tokens and no end of turn"):
        span.write(decoder, decoder.logits(), horizon=8)
    tokens = [ids.action_start] + [ids.action_first] * 126 + [ids.eos]
    decoder = Saying(span, tokens)
    assert span.write(decoder, decoder.logits(), horizon=8).tolist() == tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eos"], "1 tokens and no action token"),
        (["start", "end", 5, "eos"], "4 tokens and no action token"),
        (["start", 60, "end", "eos"], r"1 action tokens stand for \d+ coefficients; 48 are needed"),
    ],
)
def test_tokens_that_mean_no_chunk_are_refused(words, message, bundles):
    span, ids = span_of(bundles)
    named = {"start": ids.action_start, "end": ids.action_end, "eos": ids.eos}
    tokens = np.array([named[w] if w in named else ids.action_first + w for w in words])
    with pytest.raises(UndecodableActionsError, match=message):
        span.chunk(tokens, horizon=8, dim=6)


def test_bytes_that_are_no_text_are_refused_however_many_there_are(bundles):
    span, ids = span_of(bundles)
    halves = Tokenizer(models.BPE({"Ã": 0, "a": 1}, []))  # the first byte of two
    halves.decoder = decoders.ByteLevel()
    span._tokenizer = dataclasses.replace(span._tokenizer, tokenizer=halves)
    with pytest.raises(UndecodableActionsError, match="bytes that stand for no coefficient"):
        span.chunk(ids.action_first + np.array([1] * 47 + [0]), horizon=8, dim=6)
    span.chunk(ids.action_first + np.array([1] * 48), horizon=8, dim=6)


def test_tokens_are_read_between_the_marks_as_the_reference_reads_them(bundles):
    span, ids = span_of(bundles)
    case = CASES[0]
    plain = written_by_reference(case)
    codes = plain[(plain >= ids.action_first)]
    expected = span.chunk(plain, 8, 6)
    start, end, eos = ids.action_start, ids.action_end, ids.eos
    for words in (
        [*codes, eos],  # no marks at all
        [codes[0], start, *codes, end, codes[1], eos],
        [start, *codes[:3], start, eos, *codes[3:], end, end, eos],
        [start, *codes, eos],
        [end, *codes, eos],  # an end without a start ends nothing
    ):
        np.testing.assert_array_equal(span.chunk(np.array(words), 8, 6), expected)


def span_of(bundles):
    bundle = open_bundle(bundles(MODEL))
    return ActionSpan(bundle), bundle.manifest.tokens


def change(path, **values):
    payload = json.loads(path.read_text())
    payload.update(values)
    path.write_text(json.dumps(payload))


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint"
    shutil.copytree(REFERENCE / MODEL / "checkpoint", path)
    return path


@pytest.mark.parametrize(
    ("options", "actions"),
    [
        ([], ["continuous", "discrete"]),
        (["--actions", "both"], ["continuous", "discrete"]),
        (["--actions", "discrete"], ["discrete"]),
        (["--actions", "continuous"], ["continuous"]),
    ],
)
def test_build_makes_what_is_asked_for_and_else_all_there_is(
    checkpoint, tmp_path, options, actions
):
    bundle = tmp_path / "bundle"
    assert quantize_main(["build", str(checkpoint), str(bundle), "--recipe", "int4", *options]) == 0
    opened = open_bundle(bundle)
    assert list(opened.manifest.model.actions) == actions
    assert (bundle / "expert.onnx").exists() == ("continuous" in actions)
    assert (bundle / "action_tokenizer").exists() == ("discrete" in actions)
    rows = opened.manifest.model.head_rows
    assert rows == 128 + (2048 + 3) * ("discrete" in actions)
    Policy.open(bundle)


def test_a_tokenizer_from_elsewhere_makes_a_checkpoint_discrete(checkpoint, tmp_path):
    shutil.move(checkpoint / "action_tokenizer", tmp_path / "fitted")
    build_bundle(checkpoint, tmp_path / "plain", "fp32")
    assert open_bundle(tmp_path / "plain").manifest.model.actions == ("continuous",)
    build_bundle(checkpoint, tmp_path / "both", "fp32", action_tokenizer=tmp_path / "fitted")
    check_against_reference(Policy.open(tmp_path / "both", actions="discrete"))


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"action_mode": "continuous"}, ["--actions", "discrete"], "no action tokens"),
        ({"num_action_tokens": 0}, ["--actions", "both"], "no action tokens"),
        ({"num_action_tokens": 100}, [], "160 tokens, the checkpoint has 100 action tokens"),
        ({"action_mode": "discrete"}, ["--actions", "continuous"], "no action expert"),
        ({"add_action_expert": False}, ["--actions", "both"], "no action expert"),
        (
            {"add_action_expert": False, "action_mode": "continuous"},
            [],
            "add_action_expert is False",
        ),
        ({"action_start_token_id": 5}, [], "gives <action_start> the id 5, tokenizer.json 891"),
        ({"eos_token_id": None}, [], "tokens.eos is null; allowed: an id, because action_codes"),
        ({}, ["--actions", "discrete", "--action-tokenizer", "nowhere"], "nowhere/processor_co"),
        ({}, ["--actions", "continuous", "--action-tokenizer", "nowhere"], "nowhere: not used"),
    ],
)
def test_a_build_that_cannot_be_is_one_line(checkpoint, tmp_path, config, options, message, capsys):
    change(checkpoint / "config.json", **config)
    args = ["build", str(checkpoint), str(tmp_path / "bundle"), "--recipe", "fp32", *options]
    assert quantize_main(args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_build_cleans_up_a_killed_one_that_had_a_tokenizer(checkpoint, tmp_path):
    left = tmp_path / ".bundle.building" / "action_tokenizer"
    left.mkdir(parents=True)
    (left / "tokenizer.json").write_text("half")
    build_bundle(checkpoint, tmp_path / "bundle", "fp32")
    open_bundle(tmp_path / "bundle")


@pytest.fixture
def damaged(bundles, tmp_path, own_cache):
    target = tmp_path / "bundle"
    shutil.copytree(bundles(MODEL), target)
    return target


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_an_action_tokenizer_that_is_not_the_bundles_is_refused(damaged, name):
    file = damaged / "action_tokenizer" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-2] + b" }")
    with pytest.raises(BundleError, match=f"action_tokenizer/{name}: altered"):
        open_bundle(damaged)
    file.unlink()
    with pytest.raises(BundleError, match=f"action_tokenizer/{name}: missing"):
        open_bundle(damaged)
    edit_manifest(damaged, lambda m: m["files"].pop(f"action_tokenizer/{name}"))
    with pytest.raises(BundleError, match=f"files lacks action_tokenizer/{name}"):
        open_bundle(damaged)


def test_a_linked_folder_in_a_bundle_is_refused(damaged, tmp_path):
    shutil.move(damaged / "action_tokenizer", tmp_path / "elsewhere")
    (damaged / "action_tokenizer").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(damaged)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "actions", []),
        ("model", "actions", ["discrete", "continuous"]),
        ("model", "actions", ["spoken"]),
        ("model", "action_codes", 0),
        ("model", "action_codes", 1 << 40),
        ("model", "expert_width", 0),
        ("model", "flow_steps", 0),
        ("tokens", "action_start", None),
        ("tokens", "action_first", 10**6),
        ("tokens", "eos", None),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_by_field(damaged, section, field, value):
    edit_manifest(damaged, lambda m: m[section].update({field: value}))
    with pytest.raises(BundleError, match=f"{section}.{field} is"):
        open_bundle(damaged)


@pytest.mark.parametrize("name", ["a/b", "action_tokenizer/../x", "action_tokenizer/a/b", "/x"])
def test_no_other_folder_is_read(damaged, name):
    edit_manifest(damaged, lambda m: m["files"].update({name: m["files"]["vision.onnx"]}))
    with pytest.raises(BundleError, match="a plain file name is needed"):
        open_bundle(damaged)
