"""What a report measures: tokens, errors in a robot's units, and failures."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
from edge.action_tokens import ActionTokenizer
from edge.errors import UndecodableActionsError
from edge.normalization import Normalizer
from training.datasets.embodiment import load_embodiment
from training.openfast.measure import Padded, PlainBins, measure
from training.openfast.units import dim_units

FOLDER = Path(__file__).parent / "reference_openfast"
CHUNKS = np.load(FOLDER / "cases.npz")["chunks"]


def degrees(dims, low=-90.0, high=90.0):
    """Map [-1, 1] to [low, high] degrees."""
    return Normalizer(
        low=np.full(dims, low, np.float32),
        high=np.full(dims, high, np.float32),
        mean=None,
        std=None,
        mask=np.ones(dims, bool),
        constant=np.zeros(dims, bool),
    )


def rng():
    return np.random.default_rng(0)


def test_plain_bins_take_one_token_a_number_and_err_by_half_a_bin_at_most():
    measured = measure(PlainBins(), CHUNKS, degrees(6), rng())
    assert (measured.tokens_mean, measured.tokens_p95) == (180, 180)
    assert measured.errors.shape == CHUNKS.shape
    half_bin = 180 / 255 / 2
    assert half_bin * 0.9 < measured.errors.max() <= half_bin * 1.001
    assert (measured.undecodable, measured.undecodable_replaced) == (0, 0)


def test_errors_are_those_of_what_the_robot_is_sent():
    tokens = ActionTokenizer.open(FOLDER)
    measured = measure(tokens, CHUNKS, degrees(6), rng())
    decoded = np.stack([tokens.decode(tokens.encode(chunk), 30, 6) for chunk in CHUNKS])
    expected = np.abs(np.clip(decoded, -1, 1) - CHUNKS) * 90
    np.testing.assert_allclose(measured.errors, expected, atol=1e-4)
    assert measured.undecodable == 0
    assert 0.5 < measured.undecodable_replaced < 1


def test_padding_changes_what_is_said_but_not_what_is_decoded():
    tokens = ActionTokenizer.open(FOLDER)
    chunk = CHUNKS[0]
    padded = Padded(tokens, 32)
    assert len(padded.encode(chunk)) > len(tokens.encode(chunk))
    decoded = padded.decode(padded.encode(chunk), 30, 6)
    np.testing.assert_array_equal(decoded, tokens.decode(tokens.encode(chunk), 30, 6))


class FailsOnNegative:
    """Decodes nothing that begins below zero."""

    size = 2

    def encode(self, chunk):
        return [int(chunk[0, 0] >= 0)]

    def decode(self, ids, horizon, dim):
        if ids == [0]:
            raise UndecodableActionsError("below zero")
        return np.zeros((horizon, dim), np.float32)


def test_failures_are_counted_and_leave_no_error():
    chunks = np.array([-1, -1, -1, 0.5]).reshape(4, 1, 1)
    measured = measure(FailsOnNegative(), chunks, degrees(1), rng())
    assert measured.undecodable == 0.75
    assert measured.undecodable_replaced == 0.25
    np.testing.assert_allclose(measured.errors, [[[45]]])


def test_units_are_degrees_millimetres_and_percent():
    def units(name):
        return [(unit.unit, round(unit.factor, 2)) for unit in dim_units(load_embodiment(name))]

    assert units("so101") == [("deg", 1.0)] * 5 + [("%", 1.0)]
    assert units("droid_franka") == [("deg", 57.3)] * 7 + [("%", 100.0)]
    assert units("bc_z") == [("mm", 1000.0)] * 3 + [("deg", 57.3)] * 3 + [("%", 100.0)]
