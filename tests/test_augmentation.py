"""Augmented pictures are still the camera's: whole, of the same shape, and drawn again alike."""

from __future__ import annotations

import numpy as np
import pytest

from training.datasets.augmentation import (
    Augmentation,
    AugmentationError,
    augment,
    parse_augmentation,
)

OFF = {
    "crop": 1.0,
    "rotation_deg": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "blur": 0.0,
}
HEIGHT, WIDTH = 120, 160


def only(**named):
    return Augmentation(**{**OFF, **named})


def coordinates():
    """Draw a picture whose red tells the column and whose green the row, 0 to 255."""
    rows = np.linspace(0, 255, HEIGHT)[:, None] * np.ones(WIDTH)
    columns = np.linspace(0, 255, WIDTH)[None, :] * np.ones((HEIGHT, 1))
    return np.rint(np.stack([columns, rows, np.full_like(rows, 90)], -1)).astype(np.uint8)


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def drawn(image, how, seed=0, keep_geometry=False):
    return augment(image, how, np.random.default_rng(seed), keep_geometry=keep_geometry)


def test_without_any_change_the_picture_stays():
    image = noise()
    assert np.array_equal(drawn(image, only()), image)


def test_the_same_draw_gives_the_same_picture_and_the_original_is_left_alone():
    image = noise()
    before = image.copy()
    how = parse_augmentation("full", "recipe")
    assert np.array_equal(drawn(image, how, 7), drawn(image, how, 7))
    assert not np.array_equal(drawn(image, how, 7), drawn(image, how, 8))
    assert np.array_equal(image, before)
    assert drawn(image, how, 7).shape == image.shape


def test_a_crop_reaches_every_border_and_is_never_just_the_middle():
    """A square or centred crop would leave out the sides that a robot sees at run time."""
    corners = np.array([drawn(coordinates(), only(crop=0.95), seed)[[0, -1], [0, -1], :2]
                        for seed in range(200)], float)  # fmt: skip
    first, last = corners[:, 0], corners[:, 1]  # what the top left and bottom right show
    np.testing.assert_allclose(last - first, 0.95 * 255, atol=3)  # both sides alike
    assert (first.min(0) <= 1).all()
    assert (last.max(0) >= 254).all()
    assert (first.max(0) > 10).all()


def test_a_rotation_turns_about_the_middle_and_fills_with_the_border():
    how = only(rotation_deg=5.0)
    turned = [drawn(coordinates(), how, seed) for seed in range(50)]
    middles = np.array([image[HEIGHT // 2, WIDTH // 2, :2] for image in turned], float)
    np.testing.assert_allclose(middles, 128, atol=3)
    rise = np.array([image[HEIGHT // 2, [20, -20], 1].astype(float) for image in turned])
    slope = (rise[:, 1] - rise[:, 0]) * HEIGHT / 255 / (WIDTH - 40)
    assert np.abs(np.rad2deg(np.arctan(slope))).max() == pytest.approx(5.0, abs=0.7)
    assert slope.min() < -0.05
    assert slope.max() > 0.05
    assert all((image[..., 2] == 90).all() for image in turned)  # no black corner


def test_pictures_with_depth_codes_change_colour_only():
    how = parse_augmentation("full", "recipe")
    colours = only(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, blur=0.2)
    for seed in range(5):
        kept = drawn(noise(), how, seed, keep_geometry=True)
        assert np.array_equal(kept, drawn(noise(), colours, seed))
        assert not np.array_equal(kept, drawn(noise(), how, seed))


def test_brightness_contrast_and_saturation_stay_in_their_ranges():
    grey = np.full((8, 8, 3), 100, np.uint8)
    levels = [int(drawn(grey, only(brightness=0.2), seed)[0, 0, 0]) for seed in range(300)]
    assert 80 <= min(levels) < 84
    assert 116 < max(levels) <= 120
    halves = np.concatenate(
        [np.full((8, 4, 3), 80, np.uint8), np.full((8, 4, 3), 120, np.uint8)], 1
    )
    steps = [np.ptp(drawn(halves, only(contrast=0.2), seed)) for seed in range(300)]
    assert 32 <= min(steps) < 34
    assert 46 < max(steps) <= 48
    red = np.full((8, 8, 3), (160, 100, 100), np.uint8)
    spreads = [np.ptp(drawn(red, only(saturation=0.2), seed)) for seed in range(300)]
    assert 47 <= min(spreads) < 51
    assert 69 < max(spreads) <= 73


def test_hue_turns_both_ways_and_past_red():
    red = np.full((8, 8, 3), (200, 40, 40), np.uint8)
    shades = np.array([drawn(red, only(hue=0.05), seed)[0, 0] for seed in range(100)], int)
    assert (shades[:, 1] > 60).any()  # towards yellow
    assert (shades[:, 2] > 60).any()  # towards magenta
    assert (shades[:, 0] >= 195).all()


def test_a_fifth_of_the_pictures_is_blurred():
    image = np.random.default_rng(0).integers(0, 256, (400, 32, 3), dtype=np.uint8)
    blurred = [not np.array_equal(drawn(image, only(blur=0.2), seed), image) for seed in range(300)]
    assert 0.12 < np.mean(blurred) < 0.28


def test_the_settings_are_checked():
    assert parse_augmentation("none", "recipe") is None
    assert parse_augmentation({"hue": 0.1}, "recipe") == only(hue=0.1)
    with pytest.raises(
        AugmentationError, match=r"recipe: augmentation\.crop: 2; allowed: 0\.5\.\.1"
    ):
        parse_augmentation({"crop": 2}, "recipe")
    with pytest.raises(AugmentationError, match=r"unknown key 'zoom'.*\(or: none, full\)"):
        parse_augmentation({"zoom": 2}, "recipe")
    with pytest.raises(AugmentationError, match="'some' is not a mapping"):
        parse_augmentation("some", "recipe")
