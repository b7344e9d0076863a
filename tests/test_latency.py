"""The latency bench varies what it says it varies, and reports what it measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import REFERENCE

pytest.importorskip("onnx")

from benchmarks.ceiling import Ceiling
from benchmarks.cli import main
from benchmarks.floors import floors_ms
from benchmarks.latency import measure_latency, times_from_seconds
from benchmarks.stimulus import TASK, moving_pictures, varied_tag
from edge.errors import ObservationError
from edge.manifest import read_manifest
from edge.normalization import choose_tag
from edge.policy import Policy
from quantization.build import build_bundle

FAKE = Ceiling(
    threads=1,
    read_gb_s=2.0,
    fp32_gflop_s=1.0,
    int8_gop_s=4.0,
    ways={"read": {"any": 2.0}, "fp32": {"any": 1.0}, "int8": {"any": 4.0}},
)


@pytest.fixture(autouse=True)
def _known_ceiling(monkeypatch):
    monkeypatch.setattr("benchmarks.latency.measure_ceiling", lambda _threads: FAKE)


def measure(bundle, **changes):
    settings = {
        "profile": None,
        "cameras": [2],
        "changed_percent": [0, 25, 100],
        "horizons": [],
        "norm_tag": None,
        "repeats": 3,
    }
    return measure_latency(bundle, **{**settings, **changes})


def test_the_share_of_cells_asked_for_is_the_share_that_changes(bundles):
    rows = {row.changed_percent: row for row in measure(bundles()).rows}  # 16 depth cells
    changed = {share: row.changed_cells_mean for share, row in rows.items()}
    assert changed == {None: 0, 0: 0, 25: 4, 100: 16}
    assert rows[0].depth_passes_mean == 1


def test_more_cameras_than_the_tag_names_make_a_longer_prompt(bundles):
    report = measure(bundles(), cameras=[1, 2, 3], changed_percent=[])
    tokens = [row.prompt_tokens for row in report.rows]
    assert tokens == sorted(set(tokens))


def test_one_driver_is_varied_at_a_time_and_the_base_is_measured_once(bundles):
    report = measure(bundles(), cameras=[1, 2, 3], changed_percent=[0, 25], horizons=[4], repeats=1)
    base = report.base
    assert (base.cameras, base.changed_percent) == (2, 25)
    settings = [(row.cameras, row.changed_percent, row.horizon) for row in report.rows]
    assert settings == [
        (1, 25, base.horizon),
        (2, 25, base.horizon),
        (3, 25, base.horizon),
        (2, None, base.horizon),
        (2, 0, base.horizon),
        (2, 25, 4),
    ]


def test_tokens_are_timed_one_an_action_whatever_they_mean(tmp_path):
    bundle = tmp_path / "bundle"
    checkpoint = REFERENCE / "action_tokens" / "checkpoint"
    build_bundle(checkpoint, bundle, "fp32", actions="discrete")
    report = measure(bundle, cameras=[2], changed_percent=[30], horizons=[4], repeats=1)
    assert [row.horizon for row in report.rows] == [8, 8, 4]
    assert all(row.stages_ms["expert"].p50 > 0 for row in report.rows)


def test_a_horizon_is_the_number_of_actions_the_expert_computes(bundles):
    policy = Policy.open(bundles())
    manifest = policy.bundle.manifest
    tag = varied_tag(choose_tag(policy.bundle.tags, None), manifest, 3)
    policy.bundle.tags[tag.name] = tag
    images = next(moving_pictures(manifest, 1, 0, 1))
    state = tag.state.unnormalize(np.zeros(tag.state.dim))
    noise = np.zeros((1, 3, manifest.model.max_action_dim), np.float32)
    assert len(policy.act(images, TASK, state, tag.name, noise=noise).actions) == 3
    with pytest.raises(ObservationError):
        policy.act(images, TASK, state, tag.name, noise=np.zeros((1, 4, noise.shape[2])))


def test_a_horizon_the_model_does_not_have_is_one_line_before_anything_runs(bundles, capsys):
    assert main(["latency", str(bundles()), "--horizon", "999"]) == 2
    error = capsys.readouterr().err
    assert "horizon 999 is not possible" in error
    assert error.count("\n") == 1


def test_few_repeats_give_no_percentiles_and_say_so(bundles):
    report = measure(bundles(), changed_percent=[])
    for row in report.rows:
        assert row.note == "3 repeats: too few for percentiles"
        times = row.call_ms
        assert (times.p95, times.p99) == (None, None)
        assert times.min <= times.p50 <= times.max


def test_twenty_repeats_give_percentiles():
    times = times_from_seconds([number / 1e3 for number in range(1, 21)])
    assert (times.min, times.p50, times.max) == (1, 10.5, 20)
    assert times.p95 == pytest.approx(19.05)
    assert times_from_seconds([0.001] * 19).p95 is None


def test_a_row_that_took_its_time_ends_early_with_one_counted_call(bundles):
    report = measure(bundles(), changed_percent=[], repeats=5, seconds_per_row=1e-9)
    for row in report.rows:
        assert row.calls == 1
        assert row.note.startswith("stopped after 0 s with 1 of 5 calls")


def test_floors_are_the_weights_over_bandwidth_or_the_products_over_the_peak(bundles):
    manifest = read_manifest(bundles("two_cameras", "int8"))
    layers, model = manifest.recipe.layers, manifest.model
    numbers = {"cameras": 2, "depth_passes": 5, "horizon": 7}
    floors = floors_ms(manifest, FAKE, prompt_tokens=1000, **numbers)
    last = f"decoder/blocks.{model.layers - 1}."
    weights = sum(
        layer.weights
        for path, layer in layers.items()
        if path.startswith("decoder/blocks.")
        and (not path.startswith(last) or path in (f"{last}k", f"{last}v"))
    )
    assert floors["prefill"] == pytest.approx(2 * weights * 1000 / 4e9 * 1e3)
    decoder = sum(layer.size_bytes for layer in layers.values() if layer.graph == "decoder")
    assert floors["depth"] == pytest.approx(4 * decoder / 2e9 * 1e3)  # one pass is the prefill's
    short = floors_ms(manifest, FAKE, prompt_tokens=0, **numbers)
    used = sum(
        layer.size_bytes
        for path, layer in layers.items()
        if path.startswith("decoder/blocks.")
        and (not path.startswith(last) or path in (f"{last}k", f"{last}v"))
    )
    assert short["prefill"] == pytest.approx(used / 2e9 * 1e3)


def test_products_in_fp32_are_read_against_the_fp32_peak(bundles):
    manifest = read_manifest(bundles())
    numbers = {"cameras": 1, "prompt_tokens": 1, "depth_passes": 0, "horizon": 1000}
    weights = sum(e.weights for e in manifest.recipe.layers.values() if e.graph == "expert")
    expected_ms = manifest.model.flow_steps * 2 * weights * 1000 / 1e9 * 1e3
    assert floors_ms(manifest, FAKE, **numbers)["expert"] == pytest.approx(expected_ms)
    assert floors_ms(manifest, FAKE, **numbers)["depth"] == 0


def test_the_last_line_is_json_with_every_stage(bundles, capsys):
    assert main(["latency", str(bundles()), "--changed", "0", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out.strip().splitlines()[-1])
    assert [row["cameras"] for row in report["rows"]] == [1, 2, 3, 2, 2]
    assert "note: 1 repeat: too few for percentiles" in out
    for row in report["rows"]:
        assert set(row["stages_ms"]) == {"preprocess", "vision", "prefill", "depth", "expert"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--changed", "101"],
        ["--repeats", "0"],
        ["--cameras", "6"],
        ["--horizon", "0"],
        ["--seconds-per-row", "0"],
        ["--seconds-per-row", "soon"],
    ],
)
def test_settings_out_of_range_are_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["latency", "bundle", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bundle_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["latency", str(tmp_path / "no"), "--repeats", "1"]) == 2
    assert "no such bundle" in capsys.readouterr().err
