"""The depth codec: it learns, its codes follow what moves, its files are checked."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the depth codec is of the workstation")
pytest.importorskip("safetensors")
from training.depth.codec import CodecError, DepthCodec
from training.depth.codec_fit import DepthPictures, FitSettings, code_usage, fit_codec
from training.depth.relative import depth_picture, inverse_depth
from training.depth.vq_vae import Codebook, CodecShape, VqVae
from training.errors import OutputExistsError, TrainingError

SIDE = 128
SHAPE = CodecShape(side_px=SIDE, codes=16, code_width=32, hidden=4, residual_blocks=1)
SETTINGS = FitSettings(steps=120, batch_size=8, crop_px=96, rate=4e-3)


pytestmark = pytest.mark.usefixtures("one_thread")


def desk(left: int, top: int = 40) -> np.ndarray:
    """Draw the depth of a desk with a box on it, (SIDE, SIDE) uint8."""
    depth_m = np.repeat(np.linspace(1.5, 0.5, SIDE, dtype=np.float32)[:, None], SIDE, 1)
    depth_m[top : top + 24, left : left + 24] = 0.45
    return depth_picture(inverse_depth(depth_m), SIDE)


def desks(count: int = 60) -> DepthPictures:
    rng = np.random.default_rng(0)
    boxes = [desk(*rng.integers(0, SIDE - 24, 2)) for _ in range(count)]
    return DepthPictures(np.stack(boxes), None)


@pytest.fixture(scope="module")
def fitted():
    losses = []
    codec, figures = fit_codec(desks(), SHAPE, SETTINGS, lambda step, loss: losses.append(loss))
    return codec, figures, losses


def test_the_loss_falls_and_the_codebook_is_used(fitted):
    _, figures, losses = fitted
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:10])
    assert figures.error_levels < 32  # the mean level is off by 55
    assert figures.codes_used >= 6
    assert 3 < figures.perplexity <= figures.codes_used
    assert figures.pictures == 54  # every tenth judges


def test_the_same_seed_gives_the_same_codec(fitted):
    settings = FitSettings(steps=12, batch_size=4, crop_px=96)
    first, second = (fit_codec(desks(20), SHAPE, settings)[0] for _ in range(2))
    ours, theirs = (codec._model.state_dict() for codec in (first, second))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_codes_follow_what_moves_and_only_there(fitted):
    codec = fitted[0]
    before, after = codec.encode(np.stack([desk(8), desk(96)])).reshape(2, 4, 4)
    moved = before != after
    assert moved[1:3].any()
    assert not moved[3].any()  # far from the box
    assert np.array_equal(codec.encode(desk(8)[None])[0], before.reshape(-1))


def test_decoding_shows_the_box_where_it_is(fitted):
    codec = fitted[0]
    picture = desk(96)
    decoded = codec.decode(codec.encode(picture[None]))[0]
    assert decoded.shape == (SIDE, SIDE)
    assert decoded.dtype == np.float32
    assert 0 <= decoded.min() <= decoded.max() <= 255
    box, beside = decoded[46:58, 102:114].mean(), decoded[46:58, 20:60].mean()
    assert box > beside + 40


def test_a_codec_is_read_as_it_was_written(fitted, tmp_path):
    codec = fitted[0]
    codec.limits = (0.25, 3.0)
    codec.save(tmp_path / "codec", {"note": 1})
    codec.limits = None
    again = DepthCodec.open(tmp_path / "codec")
    pictures = desks(5).pictures
    codes = codec.encode(pictures)
    assert again.shape == SHAPE
    assert again.limits == (0.25, 3.0)
    assert np.array_equal(again.encode(pictures), codes)
    assert np.array_equal(again.decode(codes), codec.decode(codes))
    assert len(again.digest) == 64
    with pytest.raises(OutputExistsError):
        codec.save(tmp_path / "codec", {})
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]


def test_published_shape_has_the_published_parameters():
    """Names and sizes of MolmoAct v1's vae-final.pt, from the MolmoAct2 release's script."""
    state = VqVae(CodecShape()).state_dict()
    assert state["encoder.0.weight"].shape == (16, 1, 4, 4)
    assert state["encoder.8.weight"].shape == (256, 128, 4, 4)
    assert state["encoder.10.net.0.weight"].shape == (256, 256, 3, 3)
    assert state["encoder.11.net.4.weight"].shape == (256, 256, 1, 1)
    assert state["encoder.12.weight"].shape == (512, 256, 1, 1)
    assert state["decoder.0.weight"].shape == (256, 512, 1, 1)
    assert state["decoder.4.weight"].shape == (256, 256, 4, 4)
    assert state["decoder.6.weight"].shape == (256, 128, 4, 4)
    assert state["decoder.14.weight"].shape == (1, 16, 1, 1)
    assert state["codebook.table"].shape == (128, 512)
    with torch.no_grad():
        codes = VqVae(CodecShape()).encode(torch.zeros(1, 1, 320, 320))
    assert codes.shape == (1, 10, 10)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_file_of_molmoact_opens(tmp_path, prefix):
    model = VqVae(CodecShape(hidden=4))
    names = {
        "codebook.table": "_vq_vae._embedding",
        "codebook.counts": "_vq_vae._ema_cluster_size",
        "codebook.sums": "_vq_vae._ema_w",
    }
    weights = {prefix + names.get(key, key): value for key, value in model.state_dict().items()}
    torch.save({"weights": weights, "epoch": 3}, tmp_path / "vae-final.pt")
    picture = np.random.default_rng(0).integers(0, 256, (1, 320, 320), np.uint8)
    opened = DepthCodec.open(tmp_path / "vae-final.pt")
    assert opened.shape == CodecShape(hidden=4)
    assert np.array_equal(opened.encode(picture), DepthCodec(model).encode(picture))


def test_codes_are_the_nearest_vectors_and_follow_them():
    generator = torch.Generator().manual_seed(0)
    book = Codebook(4, 3)
    latents = torch.randn(2, 3, 5, 5, generator=generator)
    distance = (latents.permute(0, 2, 3, 1)[..., None, :] - book.table).square().sum(-1)
    assert torch.equal(book.nearest(latents), distance.argmin(-1))
    book.start_at(latents, generator)
    codes = book.nearest(latents)
    book.follow(latents, codes, decay=0.0)
    flat = latents.permute(0, 2, 3, 1)
    for code in codes.unique():
        assert torch.allclose(book.table[code], flat[codes == code].mean(0), atol=1e-5)


def test_codes_that_nothing_is_near_to_are_put_elsewhere():
    generator = torch.Generator().manual_seed(0)
    book = Codebook(8, 3)
    latents = torch.randn(1, 3, 6, 6, generator=generator)
    book.start_at(latents, generator)
    book.table[2:] = 1e3
    book.counts[2:] = 0.0
    assert book.revive(latents, 0.5, generator) == 6
    assert book.table.abs().max() < 10


def test_usage_of_codes():
    used, perplexity = code_usage(np.array([0, 0, 3, 3]), 8)
    assert (used, round(perplexity, 6)) == (2, 2.0)


@pytest.mark.parametrize(
    ("settings", "pictures", "message"),
    [
        (FitSettings(steps=3), 60, "3 steps; a codec needs 12 or more"),
        (FitSettings(crop_px=100), 60, "crops of 100 pixels; choose a multiple of 32 up to 128"),
        (FitSettings(crop_px=160), 60, "crops of 160 pixels"),
        (FitSettings(crop_px=96), 9, "9 pictures of depth; a codec needs 10 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, pictures, message):
    with pytest.raises(TrainingError, match=message):
        fit_codec(desks(pictures), SHAPE, settings)


def test_damaged_codecs_are_refused(fitted, tmp_path):
    folder = tmp_path / "codec"
    with pytest.raises(CodecError, match="make a codec with 'molmoact-train depth fit'"):
        DepthCodec.open(folder)
    fitted[0].save(folder, {})
    description = folder / "codec.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, "shape": {**content["shape"], "codes": 32}}))
    with pytest.raises(CodecError, match="weights do not fit the codec"):
        DepthCodec.open(folder)
    description.write_text(json.dumps({**content, "format": "other"}))
    with pytest.raises(CodecError, match="not of format"):
        DepthCodec.open(folder)
    description.write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(CodecError, match="cannot be read"):
        DepthCodec.open(folder)
    (tmp_path / "other.pt").write_bytes(b"not a file of torch")
    with pytest.raises(CodecError, match="is not MolmoAct v1's vae-final"):
        DepthCodec.open(tmp_path / "other.pt")
