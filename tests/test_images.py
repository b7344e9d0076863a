"""Pictures are cut exactly as the checkpoint's own processor cuts them."""

from __future__ import annotations

import numpy as np
import pytest

from edge.images import (
    ImageLayout,
    changed_cells,
    cut_image,
    resize_antialiased,
    resize_bilinear,
)

SIZES = [(120, 160, 84, 84), (480, 640, 378, 378), (33, 50, 91, 17), (700, 31, 14, 320)]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def layout(side=84, crop_mode="resize", max_crops=2, margins=(1, 1)):
    return ImageLayout(side, side, 14, 2, 2, crop_mode, max_crops, *margins)


@pytest.mark.parametrize(("height", "width", "new_height", "new_width"), SIZES)
def test_bilinear_resize_is_torchvisions_bit_for_bit(height, width, new_height, new_width):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    if torch.get_num_threads() == 1:
        pytest.skip("with one thread PyTorch uses another kernel, which differs by one level")
    image = picture(height, width)
    resize = torchvision.transforms.Resize([new_height, new_width], antialias=False)
    expected = resize(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(resize_bilinear(image, new_height, new_width), expected)


@pytest.mark.parametrize(("height", "width", "side", "_unused"), SIZES)
def test_antialiased_resize_is_pillows_bit_for_bit(height, width, side, _unused):
    pil = pytest.importorskip("PIL.Image")
    image = picture(height, width)
    expected = np.asarray(pil.fromarray(image).resize((side, side), pil.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_antialiased(image, side), expected)


def test_a_half_size_average_rounds_ties_to_even():
    image = np.zeros((2, 4, 3), np.uint8)
    image[0, 0], image[0, 2] = 2, 6  # averages of 0.5 and 1.5
    assert resize_bilinear(image, 1, 2)[0, :, 0].tolist() == [0, 2]


def test_a_picture_of_the_right_size_is_left_as_it_is():
    image = picture(84, 84)
    assert resize_bilinear(image, 84, 84) is image


def test_patches_hold_their_pixels_row_by_row():
    image = picture(84, 84)
    cut = cut_image(image, layout())
    assert cut.patches.shape == (1, 36, 14 * 14 * 3)
    np.testing.assert_array_equal(cut.patches[0, 8].reshape(14, 14, 3), image[14:28, 28:42])


def test_an_odd_grid_pads_the_last_row_and_column_of_pools():
    cut = cut_image(picture(98, 98), layout(side=98))
    assert cut.overview == (4, 4)
    assert cut.pooling[0].tolist() == [0, 1, 7, 8]
    assert cut.pooling[3].tolist() == [6, -1, 13, -1]
    assert cut.pooling[-1].tolist() == [48, -1, -1, -1]


@pytest.mark.parametrize("size", [(120, 160), (60, 300), (333, 222), (84, 84)])
@pytest.mark.parametrize(("side", "margins", "crops"), [(84, (1, 1), 2), (98, (1, 2), 6)])
def test_crops_match_the_reference_processor(size, side, margins, crops):
    processing = pytest.importorskip(
        "lerobot.policies.molmoact2.molmoact2_hf_model.image_processing_molmoact2"
    )
    bilinear = pytest.importorskip("transformers.image_utils").PILImageResampling.BILINEAR
    image = picture(*size)
    grids, pixels, pooling = processing.image_to_patches_and_grids(
        image, crops, list(margins), [side, side], bilinear, [0.5] * 3, [0.5] * 3, 14, 2, 2,
        "overlap-and-resize-c2",
    )  # fmt: skip
    cut = cut_image(image, layout(side, "overlap-and-resize", crops, margins))
    assert (*cut.overview, *cut.detail) == tuple(grids[0])
    np.testing.assert_array_equal(cut.pooling, pooling)
    np.testing.assert_array_equal(cut.patches, np.rint((pixels + 1) / 2 * 255).astype(np.uint8))


def test_only_cells_whose_picture_changed_are_marked():
    before = picture(320, 320)
    after = before.copy()
    after[64:96, 32:64] = 255 - after[64:96, 32:64]
    marked = changed_cells(after, before, 100).reshape(10, 10)
    assert np.argwhere(marked).tolist() == [[2, 1]]
    assert not changed_cells(before, before, 100).any()


def test_black_cells_count_as_equal():
    black = np.zeros((320, 320, 3), np.uint8)
    assert not changed_cells(black, black, 100).any()
    assert not changed_cells(picture(320, 320), black, 100).any()


@pytest.mark.parametrize("shape", [(97, 133), (480, 640)])
def test_change_mask_is_the_references(shape):
    reference = pytest.importorskip(
        "lerobot.policies.molmoact2.molmoact2_hf_model.modeling_molmoact2"
    )
    before = picture(*shape)
    noise = np.random.default_rng(1).normal(0, 12, before.shape)
    after = np.clip(before + noise, 0, 255).astype(np.uint8)
    expected = reference._compute_depth_update_mask(after, before, num_depth_codes=49)
    np.testing.assert_array_equal(changed_cells(after, before, 49), expected)
