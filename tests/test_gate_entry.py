"""What a verdict in a manifest allows, and what makes it none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from conftest import edit_manifest

pytest.importorskip("onnx")

from gate_practice import judge_as

from edge.bundle import file_sha256, open_bundle
from edge.cli import main as edge_main
from edge.errors import BundleError
from edge.gate_entry import (
    ALTERED,
    FAILED,
    PASSED,
    UNJUDGED,
    WHOLE,
    Asked,
    check_standing,
    judged_depth,
    standing,
)
from edge.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def small(bundles, tmp_path):
    """Give an int4 bundle of a test's own."""
    return shutil.copytree(bundles(recipe="int4"), tmp_path / "small")


USUAL = Asked("continuous", "tag", "incremental")


def refusal(bundle, asked=USUAL, accept=()):
    with pytest.raises(BundleError) as error:
        check_standing(bundle, read_manifest(bundle), asked, accept)
    return str(error.value)


def test_full_precision_needs_no_judge(bundles):
    manifest = read_manifest(bundles())
    assert standing(manifest) == WHOLE
    assert "full precision" in check_standing(bundles(), manifest, USUAL)


def test_a_bundle_that_was_never_judged_is_run_only_by_name(small):
    assert standing(read_manifest(small)) == UNJUDGED
    text = refusal(small)
    assert "never judged against full precision" in text
    assert f"molmoact-quantize gate {small}" in text
    assert "--accept-unjudged" in text
    refusal(small, accept=(FAILED,))
    assert "was accepted" in check_standing(small, read_manifest(small), USUAL, (UNJUDGED,))


def test_a_bundle_that_failed_is_run_only_by_name(small):
    manifest = judge_as(small, FAILED)
    assert standing(manifest) == FAILED
    text = refusal(small)
    assert "tip_mean_mm 6 (at most 2.6)" in text
    assert "gripper_agreement" not in text
    assert "--accept-failed" in text
    refusal(small, accept=(UNJUDGED,))
    assert "was accepted" in check_standing(small, manifest, USUAL, (FAILED,))


def test_a_bundle_that_passed_runs_the_way_it_was_judged(small):
    manifest = judge_as(small, trials=40)
    text = check_standing(small, manifest, USUAL)
    assert text == "passed its gate on 2026-01-02 (sim, depth incremental, 40 trials)"
    assert "never judged with discrete actions" in refusal(
        small, replace(USUAL, actions="discrete")
    )
    assert "norm tag another robot" in refusal(small, replace(USUAL, norm_tag="another robot"))
    assert "depth off" in refusal(small, replace(USUAL, depth="off"))


def test_depth_is_what_was_judged_and_passed(small):
    assert judged_depth(read_manifest(small)) == "off"
    assert judged_depth(judge_as(small, FAILED)) == "off"
    assert judged_depth(judge_as(small, depth="full")) == "full"


def test_judged_again_only_the_new_verdict_counts(small):
    judge_as(small, FAILED)
    assert standing(judge_as(small, PASSED)) == PASSED
    assert standing(read_manifest(small)) == PASSED
    open_bundle(small)


def leaves(value, path=()):
    """Give the path to every value inside nested lists and dicts, of alike ones the first."""
    if isinstance(value, dict):
        for key in list(value)[:3] if path and path[-1] in ("layers", "files") else value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(1, len(value))):
            yield from leaves(value[index], (*path, index))
    else:
        yield path, value


def test_no_edit_of_a_manifest_keeps_its_verdict(small):
    judge_as(small)
    path = small / "manifest.json"
    original = json.loads(path.read_text())
    places = list(leaves(original))
    assert len(places) > 90
    for place, value in places:
        changed = json.loads(json.dumps(original))
        inside = changed
        for key in place[:-1]:
            inside = inside[key]
        other = {bool: lambda v: not v, str: lambda v: f"{v}1", type(None): lambda v: 1}
        inside[place[-1]] = other.get(type(value), lambda v: v + 1)(value)
        path.write_text(json.dumps(changed))
        try:
            found = standing(read_manifest(small))
        except BundleError:
            continue
        assert found == ALTERED, f"{place} changed from {value!r}, and the bundle {found}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda gate: gate.update(verdict="passed"), "gate.verdict is 'passed'; allowed: failed"),
        (lambda gate: gate["checks"].clear(), "gate.checks is {}; allowed: at least one"),
        (lambda gate: gate["checks"]["tip_mean_mm"].update(limit=1e99), "'tip_mean_mm'].limit"),
        (lambda gate: gate.pop("trials"), "manifest.gate.trials is missing"),
    ],
)
def test_a_verdict_that_contradicts_itself_is_refused(small, change, message):
    judge_as(small, FAILED)
    edit_manifest(small, lambda manifest: change(manifest["gate"]))
    with pytest.raises(BundleError) as error:
        read_manifest(small)
    assert message in str(error.value)


def test_a_verdict_copied_from_another_bundle_is_none(small, bundles, tmp_path):
    other = shutil.copytree(bundles(recipe="int8"), tmp_path / "other")
    judge_as(other)
    entry = json.loads((other / "manifest.json").read_text())["gate"]
    edit_manifest(small, lambda manifest: manifest.update(gate=entry))
    assert standing(read_manifest(small)) == ALTERED
    assert "the verdict is another bundle's" in refusal(small)
    assert check_standing(small, read_manifest(small), USUAL, (UNJUDGED,))


def test_a_weight_that_changed_after_the_verdict_ends_it(small):
    judge_as(small)
    path = small / "decoder.onnx.data"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"decoder\.onnx\.data: altered"):
        open_bundle(small)
    digest = file_sha256(path)
    edit_manifest(small, lambda m: m["files"][path.name].update(sha256=digest))
    open_bundle(small)
    assert standing(read_manifest(small)) == ALTERED


def test_few_bits_that_call_themselves_full_precision_are_not_believed(small):
    def claim(manifest):
        manifest["model"]["embedding_dtype"] = "float32"
        for layer in manifest["recipe"]["layers"].values():
            layer.update(format="fp32")

    edit_manifest(small, claim)
    assert standing(read_manifest(small)) == UNJUDGED

    def claim_sizes(manifest):
        for layer in manifest["recipe"]["layers"].values():
            layer.update(size_bytes=4 * layer["weights"])

    edit_manifest(small, claim_sizes)
    assert standing(read_manifest(small)) == UNJUDGED

    edit_manifest(small, lambda manifest: manifest["recipe"]["layers"].clear())
    assert standing(read_manifest(small)) == UNJUDGED


def test_the_command_refuses_before_it_looks_for_an_arm(small, capsys):
    arguments = ["run", str(small), "--profile", "sim", "--task", "lift"]
    assert edge_main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert "never judged" in error[0]


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        (None, "never judged against full precision"),
        (PASSED, "passed on 2026-01-02T03:04:05+00:00"),
        (FAILED, "--set 'decoder/blocks.0.q=int8-block'"),
    ],
)
def test_inspect_tells_the_verdict(small, verdict, shown, capsys):
    if verdict is not None:
        judge_as(small, verdict)
    assert edge_main(["inspect", str(small)]) == 0
    out = capsys.readouterr().out
    assert shown in out
    assert ("NO  tip_mean_mm 6 (at most 2.6)" in out) == (verdict == FAILED)
