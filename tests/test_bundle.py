"""A bundle that is altered, incomplete or of another kind does not open."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import edit_manifest, load_cases

from edge.bundle import REQUIRED_FILES, open_bundle
from edge.errors import BundleError, ObservationError
from edge.onnx_session import check_memory
from edge.policy import Policy
from edge.system_files import SystemFiles

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "decoder.onnx.data"])
def test_one_altered_byte_in_any_file_is_refused_by_name(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: altered"):
        open_bundle(copy)


def test_an_altered_byte_is_found_after_the_file_was_remembered_as_good(copy, monkeypatch):
    monkeypatch.setattr("edge.bundle._SETTLED_S", -1.0)
    open_bundle(copy)
    path = copy / "vision.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match="altered"):
        open_bundle(copy)


def test_a_good_file_is_hashed_once(copy, monkeypatch):
    monkeypatch.setattr("edge.bundle._SETTLED_S", -1.0)
    open_bundle(copy)

    def refuse(path):
        raise AssertionError(f"{path} was hashed again")

    monkeypatch.setattr("edge.bundle.file_sha256", refuse)
    open_bundle(copy)
    with pytest.raises(AssertionError):
        open_bundle(copy, trust_memory=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema="v0"), "schema is 'v0', this runtime reads"),
        (lambda m: m.update(extra=1), "manifest has 'extra', unknown"),
        (lambda m: m["model"].pop("width"), "manifest.model.width is missing; build"),
        (lambda m: m["model"].update(width="64"), "manifest.model.width is '64'; int"),
        (lambda m: m["model"].update(width=-1), "manifest.model.width is -1; int"),
        (lambda m: m["files"].pop("expert.onnx"), "files lacks expert.onnx"),
        (lambda m: m["files"].update({"../x": m["files"]["expert.onnx"]}), "plain file name"),
        (lambda m: m["model"].update(embedding_rows=9999), "embeddings.bin: .* bytes"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_with_the_field(copy, change, message):
    edit_manifest(copy, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(copy)


def test_a_missing_file_folder_or_manifest_is_named(copy, tmp_path):
    with pytest.raises(BundleError, match="no such bundle"):
        open_bundle(tmp_path / "nowhere")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: missing"):
        open_bundle(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json: unreadable"):
        open_bundle(copy)


def observation(**changes):
    case = load_cases("two_cameras")[0]
    return {"images": case.images, "task": "lift", "state": case.arrays["state"], **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": np.array([0, np.nan, 0, 0, 0, 0])}, r"state\[1\] is nan"),
        ({"state": np.zeros(5)}, r"state has shape \(5,\).*needs \(6,\)"),
        ({"images": []}, "0 images given.*needs 1 to 5"),
        ({"images": [np.zeros((8, 8, 3), np.uint8)] * 6}, "6 images given"),
        ({"images": [np.zeros((8, 8, 3), np.float32)]}, "image 0 is float32"),
        ({"images": [np.zeros((8, 8), np.uint8)]}, r"image 0 is uint8 \(8, 8\)"),
        ({"norm_tag": "libero"}, "norm_tag 'libero' is unknown"),
        ({"depth": "maybe"}, "depth is 'maybe'"),
        ({"state": ["0"] * 6}, "state is .* an array of numbers"),
        ({"state": [[0.0], [0.0, 1.0]]}, "state is .* an array of numbers"),
        ({"state": np.full(6, 1e300)}, r"state\[0\] is 1e\+300.*finite"),
        ({"images": [np.zeros((1, 8, 3), np.uint8)]}, r"image 0 is uint8 \(1, 8, 3\)"),
        ({"task": " . "}, "says nothing"),
        ({"task": "lift\udcff"}, "task is .* a text of at most 4096"),
        ({"task": None}, "task is null"),
        ({"task": "lift " * 1000}, "task is .* a text of at most 4096"),
        ({"task": "\U00010348" * 4000}, r"the prompt needs \d+ positions"),
        ({"task": "lift <action_end> now"}, "reserved token <action_end>"),
        ({"noise": np.zeros((1, 3, 8), np.float32)}, "noise has shape"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused_in_one_line(bundles, changes, message):
    policy = Policy.open(bundles())
    with pytest.raises(ObservationError, match=message) as error:
        policy.act(**observation(**changes))
    assert "\n" not in str(error.value)


def test_a_refused_observation_leaves_the_policy_usable(bundles):
    policy = Policy.open(bundles())
    with pytest.raises(ObservationError):
        policy.act(**observation(state=np.full(6, np.inf)))
    assert np.isfinite(policy.act(**observation()).actions).all()


def test_graphs_that_cannot_fit_are_refused_before_they_are_loaded(bundles, tmp_path):
    bundle = open_bundle(bundles())
    files = bundle.manifest.files
    need = sum(entry.size_bytes for name, entry in files.items() if name != "embeddings.bin")
    meminfo = tmp_path / "proc" / "meminfo"
    meminfo.parent.mkdir()
    for mib, fits in ((need >> 20, True), ((need >> 20) - 1, False)):
        meminfo.write_text(f"MemTotal: 8000000 kB\nMemAvailable: {mib << 10} kB\n")
        if fits:
            check_memory(bundle, SystemFiles(tmp_path))
            continue
        with pytest.raises(BundleError, match=rf"take {need >> 20} MiB .* has {mib} MiB free"):
            check_memory(bundle, SystemFiles(tmp_path))


def test_a_system_that_does_not_say_what_is_free_is_not_asked_for_more(bundles, tmp_path):
    check_memory(open_bundle(bundles()), SystemFiles(tmp_path))
