"""Codes chosen by what their errors do together, given recorded inputs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from quantization.calibration.rounding import RecordedMoments
from quantization.formats import Format, pack

FORMS = [Format(4, 32), Format(4, 32, symmetric=False), Format(4, 128)]


def matrix(outputs=24, inputs=96, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, (outputs, inputs)).astype(np.float32)


def inputs_that_move_together(count=2000, inputs=96, seed=1):
    """Rows of which a few directions explain most, as activations are."""
    random = np.random.default_rng(seed)
    few = random.normal(0, 1, (count, 12)) @ random.normal(0, 1, (12, inputs))
    return (few + 0.3 * random.normal(0, 1, (count, inputs)) + 0.5).astype(np.float32)


def moments_of(rows, span=512):
    span = min(span, rows.shape[1])
    windows = -(-rows.shape[1] // span)
    padded = np.pad(rows, ((0, 0), (0, windows * span - rows.shape[1])))
    split = padded.reshape(len(rows), windows, span).transpose(1, 2, 0)
    return (split @ split.transpose(0, 2, 1) / len(rows)).astype(np.float32)


def unpacked(packed, shape, form):
    codes = np.stack([packed.weight & 15, packed.weight >> 4], axis=-1).astype(np.float32)
    codes = codes.reshape(shape[0], -1, form.block)
    zero = 8.0
    if packed.zero_point is not None:
        zeros = packed.zero_point.reshape(shape[0], -1)
        zero = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(shape[0], -1)
        zero = zero[:, : codes.shape[1], None].astype(np.float32)
    stored = (codes - zero) * packed.scale.reshape(shape[0], -1, 1)
    return stored.reshape(shape[0], -1)[:, : shape[1]]


def product_error(stored, source, rows):
    difference, product = rows @ (stored - source).T, rows @ source.T
    return np.sqrt(np.sum(difference**2) / np.sum(product**2))


@pytest.mark.parametrize("form", FORMS)
def test_products_come_closer_also_on_rows_that_were_not_recorded(form):
    source = matrix()
    rows = inputs_that_move_together()
    recorded = RecordedMoments(moments_of(rows[:1500]), 96)
    free, calibrated = pack(source, form), pack(source, form, None, recorded)
    errors = [
        product_error(unpacked(packed, source.shape, form), source, rows[1500:])
        for packed in (free, calibrated)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert calibrated.relative_error < calibrated.rounding_error


@pytest.mark.parametrize("form", FORMS)
def test_the_error_that_is_told_is_that_of_the_products(form):
    source, rows = matrix(), inputs_that_move_together()
    packed = pack(source, form, None, RecordedMoments(moments_of(rows), 96))
    measured = product_error(unpacked(packed, source.shape, form), source, rows)
    assert packed.relative_error == pytest.approx(measured, rel=1e-3)


def test_no_output_gets_worse_than_with_the_nearest_codes():
    form, source = Format(4, 32), matrix(64)
    rows = inputs_that_move_together()
    recorded = RecordedMoments(moments_of(rows), 96)
    # What calibration knows of power, but not of products.
    weights = recorded.power
    nearest = unpacked(pack(source, form, weights), source.shape, form)
    chosen = unpacked(pack(source, form, None, recorded), source.shape, form)
    errors = [np.sum((rows @ (x - source).T) ** 2, axis=0) for x in (nearest, chosen)]
    assert np.all(errors[1] <= errors[0] * (1 + 1e-4))


def test_inputs_wider_than_the_span_are_chosen_window_by_window():
    form, source = Format(4, 32), matrix(16, 300)
    rows = inputs_that_move_together(inputs=300)
    errors = []
    for span in (256, 512):
        recorded = RecordedMoments(moments_of(rows, span), 300)
        packed = pack(source, form, None, recorded)
        errors.append(product_error(unpacked(packed, source.shape, form), source, rows))
    free = product_error(unpacked(pack(source, form), source.shape, form), source, rows)
    assert errors[1] <= errors[0] < free


def test_inputs_that_were_always_zero_leave_the_nearest_codes():
    form, source = Format(4, 32), matrix()
    packed = pack(source, form, None, RecordedMoments(np.zeros((1, 96, 96), np.float32), 96))
    np.testing.assert_array_equal(packed.weight, pack(source, form).weight)
    rows = inputs_that_move_together()
    rows[:, 40:] = 0
    packed = pack(source, form, None, RecordedMoments(moments_of(rows), 96))
    assert np.isfinite(packed.scale).all()
    assert product_error(unpacked(packed, source.shape, form), source, rows) < 0.05
