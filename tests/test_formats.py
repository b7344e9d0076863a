"""Stored matrices against what the kernels do with them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from quantization.errors import BuildError
from quantization.formats import FP32, INT8, Format, pack, parse_format
from quantization.graph import FLOAT, GraphWriter
from quantization.recipes import RECIPES, find_recipe, parse_rule

INT4 = Format(4, 32)


def matrix(outputs=24, inputs=80, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, (outputs, inputs)).astype(np.float32)


def relative_rms(difference, reference):
    return np.sqrt(np.mean(difference**2) / np.mean(reference**2))


def unpack_int4(packed, shape, block):
    codes = np.stack([packed.weight & 15, packed.weight >> 4], axis=-1).astype(np.float32) - 8
    blocks = codes.reshape(shape[0], -1, block)
    stored = blocks * packed.scale.reshape(shape[0], -1, 1)
    return stored.reshape(shape[0], -1)[:, : shape[1]]


@pytest.mark.parametrize(
    ("form", "limit"),
    [
        (FP32, 1e-6),
        (INT8, 0.02),
        (INT4, 0.11),
        (Format(4, 16), 0.1),
        (Format(4, 32, symmetric=False), 0.11),
        (Format(8, 32), 0.015),
        (Format(8, 16, symmetric=False), 0.015),
    ],
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_stored_matrix_multiplies_like_the_source(form, limit, with_bias, tmp_path):
    source = matrix()
    bias = np.linspace(-1, 1, len(source)).astype(np.float32) if with_bias else None
    writer = GraphWriter("one", tmp_path, lambda path, shape: form)
    x = writer.input("x", FLOAT, [1, "T", source.shape[1]])
    writer.linear(x, "part", source, bias, out="y")
    writer.output("y", FLOAT, [1, "T", source.shape[0]])
    path, _ = writer.save()
    values = np.random.default_rng(1).normal(0, 1, (1, 7, source.shape[1])).astype(np.float32)
    found = ort.InferenceSession(str(path)).run(None, {"x": values})[0]
    expected = values @ source.T + (0 if bias is None else bias)
    assert relative_rms(found - expected, values @ source.T) < limit
    assert writer.layers["one/part"].format == form.name


@pytest.mark.parametrize("shape", [(8, 64), (5, 33), (3, 16)])
def test_int4_error_is_reported_as_it_is(shape):
    source = matrix(*shape)
    packed = pack(source, INT4)
    stored = unpack_int4(packed, shape, 32)
    assert packed.relative_error == pytest.approx(relative_rms(stored - source, source), rel=1e-5)
    assert packed.weight.shape == (shape[0], -(-shape[1] // 32), 16)


def plain_rounding_error(source, block):
    """Scale each block so that its largest magnitude falls on -8; written out per block."""
    squares = 0.0
    for values in source.reshape(-1, block):
        scale = values[np.abs(values).argmax()] / -8
        stored = np.clip(np.rint(values / scale), -8, 7) * scale
        squares += np.sum((stored - values) ** 2)
    return np.sqrt(squares / np.sum(source**2))


@pytest.mark.parametrize("seed", range(4))
def test_int4_beats_plain_rounding_in_every_matrix_and_says_by_how_much(seed):
    source = matrix(40, 128, seed)
    packed = pack(source, INT4)
    assert packed.rounding_error == pytest.approx(plain_rounding_error(source, 32), rel=1e-5)
    assert packed.relative_error < 0.98 * packed.rounding_error


def test_weights_that_meet_large_inputs_are_stored_better():
    source, random = matrix(64, 128), np.random.default_rng(3)
    size = np.exp(random.normal(0, 1.5, 128))
    inputs = random.normal(0, 1, (4000, 128)) * size
    exact = inputs @ source.T

    def output_error(packed):
        return relative_rms(inputs @ unpack_int4(packed, source.shape, 32).T - exact, exact)

    plain, aware = pack(source, INT4), pack(source, INT4, np.square(size))
    assert output_error(aware) < 0.9 * output_error(plain)
    assert aware.relative_error == pytest.approx(output_error(aware), rel=0.05)
    unit = pack(source, INT4, np.full(128, 7.0))
    np.testing.assert_array_equal(unit.weight, plain.weight)


def test_norms_say_which_weights_matter(tmp_path):
    seen = {}

    def recorded(matrix, form, power=None, inputs=None):
        seen[matrix.shape] = power
        return pack(matrix, form, power, inputs)

    writer = GraphWriter("one", tmp_path, lambda path, shape: INT4)
    x = writer.input("x", FLOAT, [1, "T", 32])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantization.graph.pack", recorded)
        normed = writer.expect(
            writer.rms_norm(x, writer.weight("s", np.ones(32)), 1e-6), np.arange(32)
        )
        writer.linear(writer.linear(normed, "a", matrix(16, 32)), "b", matrix(8, 16))
    np.testing.assert_array_equal(seen[(16, 32)], np.arange(32))
    assert seen[(8, 16)] is None


@pytest.mark.parametrize("form", [INT8, INT4])
def test_slices_packed_side_by_side_give_what_one_slice_gives(form, monkeypatch):
    source = matrix(50, 96)
    whole = pack(source, form)
    monkeypatch.setattr("quantization.formats._SLICE_WEIGHTS", 96 * 7)
    parts = pack(source, form)
    np.testing.assert_array_equal(parts.weight, whole.weight)
    np.testing.assert_array_equal(parts.scale, whole.scale)
    assert parts.relative_error == pytest.approx(whole.relative_error, rel=1e-6)


@pytest.mark.parametrize("form", [INT8, INT4])
def test_zero_rows_stay_zero(form):
    packed = pack(np.zeros((3, 32), np.float32), form)
    assert packed.relative_error == 0
    assert np.isfinite(packed.scale).all()


def product_of(form, source, tmp_path):
    writer = GraphWriter("one", tmp_path, lambda path, shape: form)
    x = writer.input("x", FLOAT, [1, "T", source.shape[1]])
    writer.linear(x, "part", source, out="y")
    writer.output("y", FLOAT, [1, "T", source.shape[0]])
    path, _ = writer.save()
    session = ort.InferenceSession(str(path))
    return lambda values: session.run(None, {"x": values[None]})[0][0]


def test_int8_rows_do_not_depend_on_the_company_they_keep(tmp_path):
    source = matrix()
    values = np.random.default_rng(1).normal(0, 1, (7, source.shape[1])).astype(np.float32)
    values[3] *= 1000  # one token with huge activations
    values[5] = 0
    product = product_of(INT8, source, tmp_path)
    together = product(values)
    for row in range(7):
        np.testing.assert_array_equal(product(values[row : row + 1])[0], together[row])
    expected = values @ source.T
    assert relative_rms(together[:3] - expected[:3], expected[:3]) < 0.02
    assert not together[5].any()


def test_asymmetric_blocks_fit_one_sided_weights_better():
    source = np.abs(matrix(16, 64))
    lopsided, centred = pack(source, Format(4, 32, symmetric=False)), pack(source, INT4)
    assert lopsided.relative_error < 0.8 * centred.relative_error
    assert lopsided.relative_error < lopsided.rounding_error


def test_format_names_are_read_back():
    for form in (FP32, INT8, Format(4, 128), Format(8, 32), Format(4, 16, symmetric=False)):
        assert parse_format(form.name) == form
    for name in ("int4", "int2-block32", "int4-block33", "int8-asymmetric", ""):
        with pytest.raises(BuildError, match="is unknown; choose fp32, int8, int8-static, or"):
            parse_format(name)


def test_the_last_rule_that_matches_decides_and_the_name_tells_of_rules_added():
    recipe = RECIPES["int4"].with_rules([("vision/*", "int8"), ("vision/blocks.1.*", "fp32")])
    assert recipe("vision/blocks.0.w1", (8, 64)) == INT8
    assert recipe("vision/blocks.1.w1", (8, 64)) == FP32
    assert recipe("decoder/blocks.1.q", (8, 64)) == INT4
    assert recipe.name == "int4, vision/*=int8, vision/blocks.1.*=fp32"
    assert not recipe.splits_prefill
    assert RECIPES["int8-int4"].splits_prefill
    assert RECIPES["int8-int4"]("prefill/blocks.1.q", (8, 64)) == INT8
    assert RECIPES["int8-int4"]("decoder/blocks.1.q", (8, 64)) == INT4


def test_a_recipe_file_is_rules_and_nothing_else(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('rules:\n  "*": int4\n  "vision/*": int8\n')
    recipe = find_recipe(str(path))
    assert (recipe.name, recipe("vision/x", (8, 64))) == ("mine", INT8)
    for text, message in (
        ("rules: []", "a recipe is 'rules:'"),
        ("rules: {'*': 4}", "a recipe is 'rules:'"),
        ("rules: {'*': int4}\nbits: 4", "a recipe is 'rules:'"),
        ("rules: {'*': int5}", "format 'int5' is unknown"),
        ("rules: [", "not a recipe that YAML reads"),
    ):
        path.write_text(text)
        with pytest.raises(BuildError, match=message) as caught:
            find_recipe(str(path))
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(BuildError, match="cannot read the recipe"):
        find_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(BuildError, match="is not PATTERN=FORMAT"):
        parse_rule("vision")


def test_recipes_are_functions_of_path_and_shape_alone():
    wide, narrow = (64, 2560), (64, 128)
    assert RECIPES["fp32"]("decoder/blocks.0.qkv", wide) == FP32
    assert RECIPES["int8"]("decoder/blocks.0.qkv", wide) == INT8
    assert RECIPES["int4"]("decoder/blocks.0.qkv", wide) == Format(4, 128)
    assert RECIPES["int4"]("decoder/blocks.0.qkv", narrow) == Format(4, 32)
    assert RECIPES["int4"]("expert/action_embed", narrow) == FP32
