"""A recipe found by measuring keeps to its ceiling, helps, and can be built again without."""

from __future__ import annotations

from pathlib import Path

import gate_practice
import pytest
from conftest import REFERENCE

pytest.importorskip("onnx")

import quantization.auto_recipe
import quantization.layer_harm
from edge.manifest import read_manifest
from quantization.allocation import Choice
from quantization.auto_recipe import ceiling_of, recipe_of
from quantization.cli import main
from quantization.fidelity.open_loop import measure_open_loop
from quantization.fidelity.sensitivity import LayerSensitivity
from quantization.formats import parse_format
from quantization.layer_harm import choices_of, rule_format

ROOT = Path(__file__).parent.parent
CHECKPOINT = REFERENCE / "two_cameras" / "checkpoint"
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def auto(bundles, tmp_path_factory):
    """A bundle of the reference checkpoint a little larger than int4, found by blocks."""
    target = tmp_path_factory.mktemp("auto") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization.layer_harm, "MOST_MATRICES", 1)  # blocks, which are fewer
        patch.setattr(
            quantization.auto_recipe,
            "recorded_observations",
            lambda *_, **__: gate_practice.observations(1),
        )
        sizes = [size_of(bundles(recipe=recipe)) for recipe in ("int4", "fp32")]
        ceiling = (9 * sizes[0] + sizes[1]) // 10
        arguments = ["--max-bytes", str(ceiling), "--episodes", "sim", "--against", str(bundles())]
        assert main(["build", str(CHECKPOINT), str(target), "--recipe", "auto", *arguments]) == 0
    return target, ceiling


def size_of(bundle):
    return sum(path.stat().st_size for path in bundle.iterdir())


def tip_mm(bundle, against):
    return measure_open_loop(bundle, against, gate_practice.observations()).tip_mm.error.mean


def test_it_keeps_to_the_ceiling_and_is_nearer_than_the_smallest(auto, bundles):
    bundle, ceiling = auto
    assert size_of(bundles(recipe="int4")) < size_of(bundle) <= ceiling
    assert tip_mm(bundle, bundles()) < tip_mm(bundles(recipe="int4"), bundles())
    formats = {layer.format for layer in read_manifest(bundle).recipe.layers.values()}
    assert len(formats) > 1


def test_nothing_is_left_beside_it(auto):
    bundle, _ = auto
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_its_manifest_builds_it_again_without_measuring(auto, tmp_path, monkeypatch):
    bundle, _ = auto
    monkeypatch.setattr(quantization.auto_recipe, "layer_sensitivity", None)
    again = tmp_path / "again"
    recipe = str(bundle / "manifest.json")
    assert main(["build", str(CHECKPOINT), str(again), "--recipe", recipe]) == 0
    assert read_manifest(again) == read_manifest(bundle)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "auto", "--episodes", "sim"], "needs a ceiling; give --max-bytes"),
        (["--recipe", "auto", "--max-bytes", "3MiB"], "give --episodes"),
        (["--recipe", "auto", "--profile", "sim", "--episodes", "sim"], "states no bundle_mib"),
        (["--recipe", "int4", "--max-bytes", "3MiB"], "--max-bytes is for --recipe auto"),
        (["--recipe", "absent/manifest.json"], "no such bundle"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, message, tmp_path, capsys):
    assert main(["build", str(CHECKPOINT), str(tmp_path / "bundle"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "much", "-1", "3 apples", "0", "1e9", "1.5.2MB"])
def test_a_size_that_is_none_is_bad_usage(text, capsys):
    arguments = ["build", "c", "b", "--recipe", "auto", f"--max-bytes={text}"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "is not a size such as" in capsys.readouterr().err


def test_a_board_may_say_its_ceiling(tmp_path):
    (tmp_path / "board.yaml").write_text("based_on: sim_host\nname: small\nbundle_mib: 900\n")
    profile = (ROOT / "profiles" / "sim.yaml").read_text()
    (tmp_path / "own.yaml").write_text(profile.replace("board: sim_host", "board: board.yaml"))
    assert ceiling_of(str(tmp_path / "own.yaml")) == 900 << 20


def layer(path, form, size, tip_mm):
    return LayerSensitivity(path, form, size, 8 * size, tip_mm, 0.0, None)


def test_matrices_of_a_block_are_one_choice_whatever_their_width():
    choices = choices_of(
        [
            layer("expert/blocks.0.*", "int4-block32", 10, 3.0),
            layer("expert/blocks.0.*", "int4-block128", 30, 4.0),
            layer("expert/blocks.0.*", "int8-block128", 80, 1.0),
        ]
    )
    assert choices == {
        "expert/blocks.0.*": [
            Choice("fp32", 320, 0.0),
            Choice("int4", 40, 25.0),
            Choice("int8-large-block", 80, 1.0),
        ]
    }


def test_a_rule_has_the_format_that_was_measured():
    for path, name, inputs in (
        ("decoder/blocks.0.q", "int8", 96),
        ("decoder/blocks.0.q", "int4-block32", 96),
        ("decoder/blocks.0.q", "int8-block32", 768),
        ("decoder/blocks.0.q", "int8-block128", 2560),
        ("expert/blocks.0.self_attn.qkv", "int8-block32", 96),
        ("expert/blocks.0.self_attn.qkv", "int8-block128", 768),
    ):
        recipe = recipe_of({path: rule_format(path, name), "vision/other": "fp32"})
        assert recipe(path, (64, inputs)) == parse_format(name)


def test_the_recipe_says_the_commonest_format_once():
    formats = {f"decoder/{number}": "int4" for number in range(5)} | {"vision/1": "int8"}
    recipe = recipe_of(formats)
    assert recipe.rules[0] == ("*", "int4")
    assert recipe.rules[-1] == ("vision/1", "int8")
    assert all(recipe(path, (64, 64)).name.startswith(form) for path, form in formats.items())
