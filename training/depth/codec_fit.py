"""Fit the depth codec on a dataset's depth.

MolmoAct v1's weights were fitted once on many datasets and are used again by MolmoAct2; here one is
fitted on what is at hand, in minutes on two cores. Three things make that quick: crops instead of
whole pictures (cells need only their surroundings), a start without codes, and codebook vectors
that nothing is near to being put where the encoder is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from edge.errors import shown
from training.datasets.dataset_files import DatasetFiles
from training.datasets.pictures import PictureReader
from training.depth.codec import DepthCodec, signed
from training.depth.relative import Limits, depth_picture, own_limits
from training.depth.teacher import DepthTeacher, TeacherFrame, checked_depth
from training.depth.vq_vae import CodecShape, VqVae
from training.errors import TrainingError

_COMMITMENT = 0.25  # weight of the commitment loss (MolmoAct2 release)
_LIMIT_FRAMES = 200  # that say what the common limits are
_HELD_OUT = 10  # every tenth picture is not learnt from
_WARMUP_STEPS = 10  # to the full rate
_FINAL_SHARE = 0.05  # of the rate, at the last step
_REVIVE_EVERY = 10  # steps
_REVIVE_SHARE = 0.8  # of the steps; the last ones leave the codebook alone
_FIRST_DECAY_STEPS = 1 / 2  # share of the steps with codes in which the averages follow faster


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a codec is fitted."""

    steps: int = 600
    batch_size: int = 16
    crop_px: int = 160  # a multiple of the cell
    rate: float = 2e-3
    clip_norm: float = 1.0
    decay: float = 0.99  # of the codebook's moving averages (MolmoAct2 release)
    first_decay: float = 0.95
    codeless: float = 1 / 4  # share of the steps before there are codes
    dead: float = 0.02  # a code chosen less than so often a picture is put elsewhere
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FitFigures:
    """How good a codec is on pictures it did not learn from."""

    steps: int
    pictures: int  # learnt from
    error_levels: float  # mean absolute difference, of 255
    error_rms_levels: float
    codes_used: int
    perplexity: float  # of the codes, at most their number
    revived: int


@dataclass(frozen=True, slots=True)
class DepthPictures:
    """Pictures of depth to fit a codec to."""

    pictures: np.ndarray  # (n, side_px, side_px) uint8
    limits: Limits | None  # of all of them; None: each has its own


def collect_depth(
    dataset: DatasetFiles,
    camera: str,
    teacher: DepthTeacher,
    count: int,
    side_px: int,
    seed: int,
    *,
    common_limits: bool = False,
) -> DepthPictures:
    """Draw `count` frames of a dataset, or all, and ask the teacher.

    With `common_limits` all are stretched alike, between the least and the greatest depth of the
    first frames drawn. Raises `TrainingError`.
    """
    frames = [(e.index, frame) for e in dataset.episodes for frame in range(e.frames)]
    rng = np.random.default_rng(seed)
    chosen = [frames[i] for i in rng.choice(len(frames), min(count, len(frames)), replace=False)]
    reader = PictureReader(dataset) if teacher.looks else None

    def ask(episode: int, frame: int) -> np.ndarray:
        picture = reader.picture(episode, frame, camera) if reader else None
        return checked_depth(teacher, TeacherFrame(episode, frame, picture))

    limits = None
    if common_limits:
        ends = [own_limits(ask(*frame)) for frame in sorted(chosen[:_LIMIT_FRAMES])]
        limits = min(least for least, _ in ends), max(most for _, most in ends)
    pictures = [depth_picture(ask(*frame), side_px, limits) for frame in sorted(chosen)]
    return DepthPictures(np.stack(pictures), limits)


def fit_codec(
    depth: DepthPictures,
    shape: CodecShape,
    settings: FitSettings,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[DepthCodec, FitFigures]:
    """Fit a codec; every tenth picture judges it.

    `report` is called with step and reconstruction loss. Raises `TrainingError`.
    """
    pictures = depth.pictures
    check_fit(shape, settings, len(pictures))
    held_out = np.arange(len(pictures)) % _HELD_OUT == _HELD_OUT - 1
    learnt = torch.from_numpy(pictures[~held_out])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = VqVae(shape)
    generator = torch.Generator().manual_seed(settings.seed)
    revived = _train(model, learnt, settings, generator, report)
    codec = DepthCodec(model, depth.limits)
    return codec, _figures(codec, pictures[held_out], settings.steps, len(learnt), revived)


def check_fit(shape: CodecShape, settings: FitSettings, pictures: int) -> None:
    """Raise `TrainingError` for settings that cannot work."""
    if settings.steps < 12:
        raise TrainingError(f"{settings.steps} steps; a codec needs 12 or more")
    if settings.crop_px % shape.cell_px or not 0 < settings.crop_px <= shape.side_px:
        raise TrainingError(
            f"crops of {shown(settings.crop_px)} pixels; choose a multiple of {shape.cell_px} up "
            f"to {shape.side_px}"
        )
    if pictures < _HELD_OUT:
        raise TrainingError(
            f"{pictures} pictures of depth; a codec needs {_HELD_OUT} or more, of which one in "
            f"{_HELD_OUT} judges it"
        )


def _train(
    model: VqVae,
    pictures: torch.Tensor,
    settings: FitSettings,
    generator: torch.Generator,
    report: Callable[[int, float], None],
) -> int:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    codeless = max(round(settings.steps * settings.codeless), 1)
    quick = codeless + (settings.steps - codeless) * _FIRST_DECAY_STEPS
    least = settings.dead * settings.batch_size
    revived = 0
    for step in range(settings.steps):
        batch = signed(_crops(pictures, settings, model.shape.cell_px, generator)).to(device)
        if step < codeless:
            latents = model.encoder(batch)
            loss = error = functional.mse_loss(model.decoder(latents), batch)
        else:
            if step == codeless:
                with torch.no_grad():
                    model.codebook.start_at(model.encoder(batch), generator)
            decoded, latents, quantized = model(batch)
            error = functional.mse_loss(decoded, batch)
            loss = error + _COMMITMENT * quantized.commitment
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        schedule.step()
        if step >= codeless:
            decay = settings.first_decay if step < quick else settings.decay
            model.codebook.follow(latents.detach(), quantized.codes, decay)
            if step % _REVIVE_EVERY == 0 and step < _REVIVE_SHARE * settings.steps:
                revived += model.codebook.revive(latents.detach(), least, generator)
        report(step, error.item())
    model.to("cpu")
    return revived


def _rate(step: int, settings: FitSettings) -> float:
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return warm * (_FINAL_SHARE + (1 - _FINAL_SHARE) * cosine)


def _crops(
    pictures: torch.Tensor, settings: FitSettings, cell_px: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw pictures and cut each on cell borders; (batch, crop, crop) uint8."""
    size, places = settings.crop_px, (pictures.shape[1] - settings.crop_px) // cell_px + 1
    numbers = torch.randint(len(pictures), (settings.batch_size,), generator=generator)
    corners = torch.randint(places, (settings.batch_size, 2), generator=generator) * cell_px
    return torch.stack(
        [
            pictures[number, top : top + size, left : left + size]
            for number, (top, left) in zip(numbers.tolist(), corners.tolist(), strict=True)
        ]
    )


def _figures(
    codec: DepthCodec, pictures: np.ndarray, steps: int, learnt: int, revived: int
) -> FitFigures:
    codes = codec.encode(pictures)
    error = codec.decode(codes) - pictures
    used, perplexity = code_usage(codes, codec.shape.codes)
    return FitFigures(
        steps=steps,
        pictures=learnt,
        error_levels=float(np.abs(error).mean()),
        error_rms_levels=float(np.sqrt(np.square(error).mean())),
        codes_used=used,
        perplexity=perplexity,
        revived=revived,
    )


def code_usage(codes: np.ndarray, count: int) -> tuple[int, float]:
    """Return how many of `count` codes occur, and the perplexity of how often each does."""
    shares = np.bincount(codes.reshape(-1), minlength=count) / codes.size
    present = shares[shares > 0]
    return len(present), float(np.exp(-(present * np.log(present)).sum()))
