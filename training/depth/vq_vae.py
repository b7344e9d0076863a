"""The network that turns a picture of depth into a grid of codes and back.

Shapes are those of MolmoAct v1, whose weights the MolmoAct2 release uses again: five convolutions
of stride 2, two residual blocks, a codebook of 128 vectors of 512, and the mirror image of that.
Parameters of encoder and decoder have the names of that file, so that it can be loaded. The
codebook follows the encoder by moving averages; vectors that nothing is near to any more are put
where the encoder is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

_SMALLEST = 1e-5  # of a code's moving count, which is divided by


@dataclass(frozen=True, slots=True)
class CodecShape:
    """Sizes of a depth codec; the defaults are those of MolmoAct v1."""

    side_px: int = 320  # of the picture of depth
    cell_px: int = 32  # side of what one code stands for, a power of two
    codes: int = 128
    code_width: int = 512
    hidden: int = 16  # channels after the first convolution; they double with every further one
    residual_blocks: int = 2

    @property
    def grid(self) -> int:
        """Cells along a side."""
        return self.side_px // self.cell_px

    @property
    def cells(self) -> int:
        """Codes of a picture."""
        return self.grid**2


@dataclass(frozen=True, slots=True)
class Quantized:
    """What the codebook made of the encoder's output."""

    codes: torch.Tensor  # (B, grid, grid) int64
    vectors: torch.Tensor  # (B, code_width, grid, grid), gradients pass straight through
    commitment: torch.Tensor  # mean squared distance of the encoder's output to its codes


class VqVae(nn.Module):
    """Depth pictures (B, 1, side, side) float32 in [-1, 1] to codes (B, grid, grid) and back."""

    def __init__(self, shape: CodecShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _encoder(shape)
        self.decoder = _decoder(shape)
        self.codebook = Codebook(shape.codes, shape.code_width)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return codes, (B, grid, grid) int64."""
        return self.codebook.nearest(self.encoder(pictures))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return pictures of depth, (B, 1, side, side), about in [-1, 1]."""
        return self.decoder(self.codebook.vectors(codes))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Quantized]:
        """Return the reconstruction, the encoder's output and what the codebook made of it."""
        latents = self.encoder(pictures)
        quantized = self.codebook(latents)
        return self.decoder(quantized.vectors), latents, quantized


class Codebook(nn.Module):
    """Code vectors, moved by exponential moving averages and not by gradients."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(codes, width))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the code next to each latent; (B, width, h, w) to (B, h, w) int64."""
        flat = latents.permute(0, 2, 3, 1)
        squares = self.table.square().sum(dim=1) - 2 * flat @ self.table.T
        return squares.argmin(dim=-1)

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the vectors of codes; (B, h, w) to (B, width, h, w)."""
        return functional.embedding(codes, self.table).permute(0, 3, 1, 2)

    def forward(self, latents: torch.Tensor) -> Quantized:
        """Replace latents by their codes' vectors; gradients go to the latents unchanged."""
        codes = self.nearest(latents)
        vectors = self.vectors(codes)
        commitment = functional.mse_loss(latents, vectors)
        return Quantized(codes, latents + (vectors - latents).detach(), commitment)

    @torch.no_grad()
    def start_at(self, latents: torch.Tensor, generator: torch.Generator) -> None:
        """Put every code at a latent drawn from (B, width, h, w)."""
        self.table.copy_(_draw(latents, len(self.table), generator))
        self.counts.fill_(1.0)
        self.sums.copy_(self.table)

    @torch.no_grad()
    def follow(self, latents: torch.Tensor, codes: torch.Tensor, decay: float) -> None:
        """Move the codes towards the mean of the latents that chose them."""
        chosen = functional.one_hot(codes.flatten(), len(self.table)).to(latents.dtype)
        flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        self.counts.lerp_(chosen.sum(dim=0), 1 - decay)
        self.sums.lerp_(chosen.T @ flat, 1 - decay)
        self.table.copy_(self.sums / self.counts.clamp_min(_SMALLEST)[:, None])

    @torch.no_grad()
    def revive(self, latents: torch.Tensor, least: float, generator: torch.Generator) -> int:
        """Put codes chosen less than `least` times a step at drawn latents; return how many."""
        dead = self.counts < least
        count = int(dead.sum())
        if count:
            self.table[dead] = _draw(latents, count, generator)
            self.counts[dead] = 1.0
            self.sums[dead] = self.table[dead]
        return count


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.net(x)


def _encoder(shape: CodecShape) -> nn.Sequential:
    widths = _widths(shape)
    layers: list[nn.Module] = []
    for before, after in zip((1, *widths[:-1]), widths, strict=True):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    layers += [_Residual(widths[-1]) for _ in range(shape.residual_blocks)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], shape.code_width, 1))


def _decoder(shape: CodecShape) -> nn.Sequential:
    widths = _widths(shape)[::-1]
    layers: list[nn.Module] = [nn.Conv2d(shape.code_width, widths[0], 1), nn.ReLU()]
    layers += [_Residual(widths[0]) for _ in range(shape.residual_blocks)]
    for before, after in zip((widths[0], *widths[:-1]), widths, strict=True):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))


def _widths(shape: CodecShape) -> list[int]:
    return [shape.hidden << level for level in range(shape.cell_px.bit_length() - 1)]


def _draw(latents: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    return flat[torch.randint(len(flat), (count,), generator=generator)]
