"""The latency bench varies what it says it varies, and reports what it measured."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("onnx")

from benchmarks.ceiling import Ceiling
from benchmarks.cli import main
from benchmarks.latency import measure_latency
from edge.manifest import read_manifest

FAKE = Ceiling(threads=1, read_gb_s=2.0, fp32_gflop_s=1.0, int8_gop_s=1.0)


@pytest.fixture(autouse=True)
def _known_ceiling(monkeypatch):
    monkeypatch.setattr("benchmarks.latency.measure_ceiling", lambda: FAKE)


def measure(bundle, **changes):
    settings = {"profile": None, "cameras": [2], "changed_percent": [0, 25, 100], "norm_tag": None}
    return measure_latency(bundle, repeats=3, **{**settings, **changes})


def test_the_share_of_cells_asked_for_is_the_share_that_changes(bundles):
    rows = measure(bundles()).rows  # 16 depth cells
    assert [row.changed_percent for row in rows] == [None, 0, 25, 100]
    assert [row.changed_cells_mean for row in rows] == [0, 0, 4, 16]
    assert rows[1].depth_passes_mean == 1


def test_more_cameras_make_a_longer_prompt(bundles):
    one, three = (measure(bundles(), cameras=[n], changed_percent=[]).rows[0] for n in (1, 3))
    assert three.prompt_tokens > one.prompt_tokens


def test_the_ceiling_is_the_weights_of_a_stage_over_the_bandwidth(bundles):
    report = measure(bundles(), changed_percent=[])
    layers = [e for e in read_manifest(bundles()).recipe.layers.values() if e.graph == "decoder"]
    expected_ms = sum(layer.size_bytes for layer in layers) / 2e9 * 1e3
    assert report.ceiling_ms["prefill"] == pytest.approx(expected_ms)


def test_the_last_line_is_json_with_every_stage(bundles, capsys):
    assert main(["latency", str(bundles()), "--changed", "0", "--repeats", "1"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["cameras"] for row in report["rows"]] == [1, 1, 2, 2, 3, 3]
    for row in report["rows"]:
        assert set(row["stages_ms"]) == {"preprocess", "vision", "prefill", "depth", "expert"}


@pytest.mark.parametrize("arguments", [["--changed", "101"], ["--repeats", "0"]])
def test_settings_out_of_range_are_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["latency", "bundle", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bundle_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["latency", str(tmp_path / "no"), "--repeats", "1"]) == 2
    assert "no such bundle" in capsys.readouterr().err
