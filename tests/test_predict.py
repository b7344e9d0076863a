import dataclasses
import json
from pathlib import Path

import pytest
from test_policy_thread import ARM_STATE, still
from test_policy_thread import Rig as ThreadRig

from benchmarks import predict_check
from benchmarks.ceiling import Ceiling
from benchmarks.cli import main
from benchmarks.machine_limits import CPU, GPU, MATRIX_S, limits_of_ceiling, limits_of_mode
from benchmarks.model_shapes import planned_layers, shapes_of
from benchmarks.predict import (
    CHANGED,
    FIRST,
    NO_DEPTH,
    STILL,
    needed,
    predict_board,
    predict_row,
    predicted_stages,
    scenarios_of,
)
from benchmarks.predict_command import configuration_of_size
from benchmarks.profile_report import StageRow
from benchmarks.workload import (
    scene_of,
    stage_passes,
    workload_of_config,
    workload_of_manifest,
)
from edge.board_profile import load_board
from edge.chunks import ChunkBuffer
from edge.hardware import UNVERIFIED, Figure
from edge.manifest import read_manifest
from edge.profile import load_profile
from quantization.config import parse_config
from quantization.recipes import RECIPES, find_recipe

PICTURES = [(640, 480)] * 2
CAMERAS = load_profile("so101").cameras
# Around the comparison in docs/performance.md: GB/s, GFLOP/s, GOP/s of two x86 cores.
X86 = Ceiling(threads=2, read_gb_s=77.3, fp32_gflop_s=509.0, int8_gop_s=1867.0)
# Measured there, seconds of a whole call.
MEASURED_S = {
    "int4": {NO_DEPTH: 8.16, FIRST: 13.60, CHANGED: 10.10},
    "int8": {NO_DEPTH: 4.99, FIRST: 12.11, CHANGED: 7.25},
    "int8-int4": {NO_DEPTH: 5.18, FIRST: 11.08, CHANGED: 7.33},
}
MEASURED_GB = {"int4": 3.49, "int8": 5.40, "int8-int4": 7.46}


@pytest.fixture(scope="module")
def full():
    """Give `full(recipe)`: the workload of the released model's shapes."""
    config = parse_config(*configuration_of_size("full"))
    return lambda recipe: workload_of_config(config, recipe, "full")


def reference_config(model):
    checkpoint = Path(__file__).parent / "reference" / model / "checkpoint"
    names = ("config.json", "processor_config.json")
    return parse_config(*(json.loads((checkpoint / name).read_text()) for name in names))


def stages(work, name, limits, pictures=PICTURES):
    scenario = next(one for one in scenarios_of(work) if one.name == name)
    return predicted_stages(work, scene_of(work.model, pictures), scenario, limits)


def one_mode(board, **figures):
    """Return a board whose mode or module has other values, each unverified."""
    mode_names = {field.name for field in dataclasses.fields(board.hardware.power_mode)}
    changed = {name: Figure(value, UNVERIFIED, "a test") for name, value in figures.items()}
    mode = dataclasses.replace(
        board.hardware.power_mode, **{n: f for n, f in changed.items() if n in mode_names}
    )
    others = {n: f for n, f in changed.items() if n not in mode_names}
    hardware = dataclasses.replace(board.hardware, power_mode=mode, **others)
    return dataclasses.replace(board, hardware=hardware)


@pytest.mark.parametrize("recipe", ["int4", "int8-int4"])
@pytest.mark.parametrize("model", ["two_cameras", "one_camera_crops"])
def test_matrices_are_planned_as_a_build_writes_them(bundles, model, recipe):
    config = reference_config(model)
    manifest = read_manifest(bundles(model, recipe))
    shapes = shapes_of(config, manifest.model.head_rows)
    planned = planned_layers(shapes, find_recipe(recipe))
    assert {path: (layer.size_bytes, layer.format) for path, layer in planned.items()} == {
        path: (layer.size_bytes, layer.format) for path, layer in manifest.recipe.layers.items()
    }


def test_a_bundle_and_its_configuration_are_the_same_work(bundles):
    config = reference_config("two_cameras")
    planned = workload_of_config(config, "int4", "planned")
    built = workload_of_manifest(read_manifest(bundles("two_cameras", "int4")), "built")
    scene = scene_of(built.model, PICTURES)
    for scenario in scenarios_of(built):
        assert stage_passes(planned, scene, scenario) == stage_passes(built, scene, scenario)


def test_the_full_size_prompt_is_the_work_that_was_counted_when_it_was_measured(full):
    work = full("int8")
    scene = scene_of(work.model, PICTURES)
    assert scene.prompt_tokens == 497
    (prefill,) = stage_passes(work, scene, scenarios_of(work)[0])["prefill"]
    products = sum(count for form, count in prefill.operations.items() if form != "attention")
    assert products / 1e12 == pytest.approx(3.52, abs=0.01)


@pytest.mark.parametrize("recipe", MEASURED_S)
def test_what_was_measured_at_real_size_is_predicted_from_its_ceiling(full, recipe):
    work, limits = full(recipe), limits_of_ceiling(X86)
    for scenario, seconds in MEASURED_S[recipe].items():
        predicted_s = sum(stages(work, scenario, limits).values()) / 1e3
        # Without depth within a tenth; how many rows passes feed in vain is told less well.
        assert predicted_s == pytest.approx(seconds, rel=0.1 if scenario == NO_DEPTH else 0.32)
    need_gb = needed(work, scene_of(work.model, PICTURES)).total / 1e9
    assert need_gb == pytest.approx(MEASURED_GB[recipe], rel=0.04)


def test_a_pass_takes_its_reads_or_its_products_whichever_is_longer(full):
    work, scenario = full("int8"), scenarios_of(full("int8"))[1]
    passes = stage_passes(work, scene_of(work.model, PICTURES), scenario)["depth"]
    slow_memory = limits_of_ceiling(dataclasses.replace(X86, read_gb_s=1.0))
    slow_arithmetic = limits_of_ceiling(dataclasses.replace(X86, int8_gop_s=10.0))
    one = passes[0]
    reads_s = sum(one.read_bytes.values()) / 0.9e9
    fixed_s = one.matrices * MATRIX_S.value
    assert slow_memory.seconds("depth", passes) == pytest.approx(one.times * (reads_s + fixed_s))
    faster_memory = limits_of_ceiling(dataclasses.replace(X86, read_gb_s=1e4, int8_gop_s=10.0))
    assert slow_arithmetic.seconds("depth", passes) == faster_memory.seconds("depth", passes)


def test_more_cameras_and_more_depth_take_longer_and_a_faster_board_less(full):
    work, limits = full("int4"), limits_of_ceiling(X86)
    one, three = (stages(work, NO_DEPTH, limits, PICTURES[:1] * count) for count in (1, 3))
    assert all(three[stage] > one[stage] for stage in ("vision", "prefill", "expert"))
    whole = [sum(stages(work, name, limits).values()) for name in (NO_DEPTH, STILL, CHANGED, FIRST)]
    assert whole == sorted(whole)
    twice = Ceiling(2, 2 * X86.read_gb_s, 2 * X86.fp32_gflop_s, 2 * X86.int8_gop_s)
    halved = stages(work, FIRST, limits_of_ceiling(twice))
    assert sum(halved.values()) == pytest.approx(whole[-1] / 2, rel=0.03)  # all but the fixed part


def test_a_rate_is_bounded_by_what_the_profile_allows(full):
    board = load_board("thor_t5000_maxn")
    predicted = predict_board(full("int4"), board, CAMERAS, 30.0)
    assert predicted.units[GPU].call_ms(STILL) < 1e3 / board.max_policy_hz
    assert predicted.replans_hz(GPU, STILL) == board.max_policy_hz
    slow = predict_board(full("int4"), load_board("orin_nano_8gb_15w"), CAMERAS, 10.0)
    call_s = slow.units[GPU].call_ms(STILL) / 1e3
    assert call_s < slow.chunk_s == 3.0
    assert slow.replans_hz(GPU, STILL) == pytest.approx(1 / call_s)


@pytest.mark.parametrize(
    ("call_s", "max_chunk_age_s"), [(0.9, 30.0), (1.5, 30.0), (1.5, 2.0), (1.5, 1.1)]
)
def test_the_predicted_rate_is_that_of_the_policys_thread(full, call_s, max_chunk_age_s):
    rig = ThreadRig(still)

    def slow():
        rig.now_s += call_s
        return still()

    rig.policy.answer = slow
    rig.thread._chunks = ChunkBuffer(6, 30.0, 0.0, max_chunk_age_s)
    rig.thread.observe(ARM_STATE, rig.now_s)
    began_s = rig.now_s
    rig.thread.call_once()
    board = dataclasses.replace(load_board("orin_nano_8gb_15w"), max_chunk_age_s=max_chunk_age_s)
    predicted = predict_board(full("int4"), board, CAMERAS, 30.0)
    assert predicted.chunk_s == 1.0
    unit = dataclasses.replace(predicted.units[CPU], stages_ms={STILL: {"vision": call_s * 1e3}})
    predicted = dataclasses.replace(predicted, units={CPU: unit})
    period_s = max(call_s, rig.thread._next_start_s() - began_s)
    assert predicted.replans_hz(CPU, STILL) == pytest.approx(1 / period_s)


def test_what_is_not_known_gives_no_figure_but_the_reason(full):
    board = load_board("thor_t5000_90w")
    predicted = predict_board(full("int4"), board, CAMERAS, 30.0)
    for unit in (CPU, GPU):
        assert predicted.units[unit].call_ms(STILL) is None
        assert predicted.replans_hz(unit, STILL) is None
        assert "not known: bandwidth_gb_s" in predicted.units[unit].reason
    assert limits_of_mode(load_board("raspberry_pi_5_8gb").hardware.power_mode, GPU) == (
        "it has no GPU that counts"
    )


def test_a_model_that_does_not_fit_is_refused_with_the_recipe_that_would(full):
    def predict(recipe, board):
        return predict_board(full(recipe), board, CAMERAS, 30.0)

    board = load_board("orin_nano_8gb_25w")
    predicted = predict("int8-int4", board)
    assert predicted.units[CPU].fits is False
    assert predicted.fitting_recipe == "int8"
    small = one_mode(board, usable_mib=4096.0)
    assert predict("int8", small).fitting_recipe == "int4"
    assert predict("int4", small).units[CPU].fits
    assert predict("int4", one_mode(board, usable_mib=2048.0)).fitting_recipe is None
    unknown = predict("fp32", one_mode(board, usable_mib=None))
    assert unknown.units[CPU].fits is None
    assert unknown.units[CPU].call_ms(STILL)


def test_what_a_board_has_for_a_bundle_bounds_what_fits_as_it_bounds_a_build(full):
    """`build --recipe auto --profile` makes no larger bundle; the rest of the memory is kept."""
    board = load_board("orin_nano_8gb_25w")
    bundle_mib = full("int8").bundle_bytes / 2**20
    for spare_mib, fits in ((1, True), (-1, False)):
        limited = dataclasses.replace(board, bundle_mib=int(bundle_mib + spare_mib))
        predicted = predict_board(full("int8"), limited, CAMERAS, 30.0)
        assert predicted.need.total < board.hardware.usable_mib.value * 2**20
        assert predicted.units[CPU].fits is fits
        assert predicted.fitting_recipe == (None if fits else "int4")
    unstated = dataclasses.replace(board, bundle_mib=None)
    assert predict_board(full("int8"), unstated, CAMERAS, 30.0).units[CPU].fits


def test_a_speed_of_zero_in_an_own_board_file_gives_no_figure_but_the_reason(full):
    """The loader refuses those of the processor; the GPU's are 0 where there is none."""
    board = load_board("orin_nano_8gb_25w")
    for figure in ("bandwidth_gb_s", "int8_tops", "fp16_tflops", "fp32_gflops"):
        predicted = predict_board(full("int4"), one_mode(board, **{figure: 0.0}), CAMERAS, 30.0)
        assert predicted.units[GPU].reason == f"not known: {figure}"


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
def test_a_configuration_that_is_no_object_is_refused_in_one_line(name, tmp_path, capsys):
    for file in ("config.json", "processor_config.json"):
        (tmp_path / file).write_text("[]" if file == name else "{}")
    arguments = ["--checkpoint", str(tmp_path), "--recipe", "int4", "--all"]
    assert main(["predict", *arguments]) == 2
    assert f"{name}: not a JSON object" in capsys.readouterr().err


def test_a_recipe_that_a_bundle_could_have_is_as_large_as_the_one_built(bundles):
    built = {recipe: read_manifest(bundles("two_cameras", recipe)) for recipe in ("fp32", "int4")}
    work = workload_of_manifest(built["fp32"], "bundle")
    assert work.in_recipe(RECIPES["fp32"]).weight_bytes == work.weight_bytes
    small = workload_of_manifest(built["int4"], "bundle")
    guessed = work.in_recipe(RECIPES["int4"]).weight_bytes
    assert guessed == pytest.approx(small.weight_bytes, rel=0.1)


def test_a_report_is_given_the_processors_figures_or_the_reason(bundles):
    manifest = read_manifest(bundles())
    row = StageRow(2, 30, 30, 5, 2, "", 70, 4.4, {}, {})
    board = load_profile("orin_nano_8gb_15w")
    told, reason = predict_row(board, manifest, row)
    assert (told["board"], told["unit"], told["depth_passes"]) == ("orin_nano_8gb_15w", "cpu", 4)
    assert told["call_ms"] == pytest.approx(sum(told["stages_ms"].values()))
    assert not reason
    still, _ = predict_row(board, manifest, dataclasses.replace(row, depth_passes_mean=1.0))
    assert still["stages_ms"]["depth"] == 0 < told["stages_ms"]["depth"]
    for profile, why in (
        ("xavier_nx_8gb_20w_6core", "board xavier_nx_8gb_20w_6core: not known: cpu_int8_gops"),
        ("sim", "board sim_host says nothing of its hardware"),
    ):
        told, reason = predict_row(load_profile(profile), manifest, row)
        assert told is None
        assert reason.startswith(why)


def test_this_machine_is_predicted_and_measured(bundles, monkeypatch, capsys):
    monkeypatch.setattr(predict_check, "measure_ceiling", lambda threads: X86)
    monkeypatch.setattr(predict_check, "higher", lambda one, other: one)
    command = ["predict", str(bundles()), "--this-machine", "--cameras", "2", "--repeats", "2"]
    assert main([*command, "--profile", "sim"]) == 0
    lines = capsys.readouterr().out.splitlines()
    record = json.loads(lines[-1])
    assert [row["scenario"] for row in record["rows"]] == [NO_DEPTH, STILL, CHANGED]
    for row in record["rows"]:
        assert row["calls"] == 2
        together = sum(row["predicted_ms"].values()) / sum(row["measured_ms"].values())
        assert row["error"] == pytest.approx(together - 1)
        assert all(row["measured_ms"][stage] > 0 for stage in ("vision", "prefill", "expert"))
    assert lines[0].startswith("measured on ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "full", "--all"], "which recipe? give --recipe"),
        (["--size", "full", "--recipe", "auto", "--all"], "auto chooses by measuring weights; g"),
        (["--recipe", "int4", "--all"], "0 models given"),
        (["--size", "full", "--recipe", "int4"], "for which board?"),
        (["--size", "full", "--recipe", "int4", "--all", "--profile", "sim"], "leave --profile"),
        (["--size", "full", "--recipe", "int4", "--this-machine"], "measures bundles"),
        (
            ["--size", "full", "--recipe", "int4", "--profile", "sim"],
            "says nothing of its hardware",
        ),
        (
            ["--size", "full", "--recipe", "int4", "--profile", "orin_nano_8gb"],
            "name a board of one, orin_nano_8gb_...",
        ),
        (
            ["--size", "full", "--recipe", "int4", "--profile", "orin_nano_4gb"],
            "Jetson Orin Nano 4GB is refused: 4 GB of memory",
        ),
        (
            ["--size", "full", "--recipe", "int8-int4", "--profile", "orin_nano_8gb_25w"],
            "recipe int8 would fit: 'molmoact-quantize build ... --recipe int8'",
        ),
    ],
)
def test_what_cannot_be_predicted_is_one_line(arguments, message, capsys):
    assert main(["predict", *arguments]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not told.out


def test_the_table_of_all_boards_has_each_mode_once_and_what_is_refused(capsys):
    assert main(["predict", "--size", "full", "--recipe", "int4", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("predicted from bytes and operations, not measured")
    boards = json.loads(lines[-1])["boards"]
    assert all(board["label"] == "predicted" for board in boards)
    names = [board["board"] for board in boards]
    assert len(names) == len(set(names)) > 40
    for name in (*names, "orin_nano_4gb"):
        assert sum(line.split()[:1] == [name] for line in lines[:-1]) == 1
    assert any(line.startswith("orin_nano_4gb") and "refused" in line for line in lines)


def test_the_table_in_the_documentation_is_the_one_that_is_printed_today(capsys):
    assert main(["predict", "--size", "full", "--recipe", "int4", "--all", "--markdown"]) == 0
    page = (Path(__file__).parent.parent / "docs" / "profiles.md").read_text()
    assert capsys.readouterr().out in page
