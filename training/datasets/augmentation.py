"""Change pictures at random while training, so that no camera's exact mounting is learnt.

The published recipe (arXiv 2605.02881): a window of 95 % of each side at a random place, a rotation
of up to 5 degrees, brightness 0.2, contrast and saturation 0.8 to 1.2, hue 0.05, blur in a fifth of
the pictures. Here every picture of an example is drawn for itself, and:

- the window has the picture's own shape and reaches its borders; it is enlarged to the whole size
  again. A square or centred window would teach a frame that the robot never shows at run time;
- what a rotation leaves empty repeats the border, where the MolmoAct2 release leaves it black;
- the picture whose depth codes are learnt, and those of questions, keep their geometry, because
  codes and answers belong to the picture as it was taken. The release's code turns all alike;
- blur is a Gaussian of 0.1 to 1 pixel over 5 x 5 pixels (MolmoAct2 release).

Nothing of this happens at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edge.config_section import Section
from edge.errors import EdgeError
from training.errors import TrainingError

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_BLUR_SIGMA_PX = (0.1, 1.0)
_BLUR_KERNEL_PX = (5, 5)
_PUBLISHED = {
    "crop": 0.95,
    "rotation_deg": 5.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.05,
    "blur": 0.2,
}


class AugmentationError(TrainingError):
    """An augmentation that is unknown or out of range."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far pictures are changed; 0 (for `crop`, 1) leaves a property alone."""

    crop: float  # side of the window, as a share of the picture's
    rotation_deg: float  # either way
    brightness: float  # factors 1 - x to 1 + x
    contrast: float
    saturation: float
    hue: float  # of a full turn, either way
    blur: float  # share of pictures that are blurred


def parse_augmentation(value: Any, file: str) -> Augmentation | None:
    """Read `none`, `full` or a mapping of some of the fields; the others stay off."""
    if value in (None, "none"):
        return None
    if value == "full":
        return Augmentation(**_PUBLISHED)
    try:
        section = Section(value, file, "augmentation")
        off = {name: 1.0 if name == "crop" else 0.0 for name in _PUBLISHED}
        section.fill_from(Section(off, file))
        limits = {"crop": (0.5, 1.0), "rotation_deg": (0.0, 45.0), "hue": (0.0, 0.5)}
        values = {name: section.number(name, *limits.get(name, (0.0, 1.0))) for name in off}
        section.finish()
    except EdgeError as error:
        raise AugmentationError(f"{error} (or: none, full)") from None
    return Augmentation(**values)


def augment(
    image: np.ndarray, how: Augmentation, rng: np.random.Generator, *, keep_geometry: bool
) -> np.ndarray:
    """Change one (height, width, 3) uint8 RGB picture; a new one of the same shape.

    Draws the same number of times whatever the settings, so that one switch moves nothing else.
    """
    draws = rng.uniform(-1.0, 1.0, 7)
    blurred, sigma = rng.random() < how.blur, rng.uniform(*_BLUR_SIGMA_PX)
    if not keep_geometry:
        image = _warp(image, how, draws[:3])
    image = _recolour(image, how, draws[3:])
    if not blurred:
        return image
    return cv2.GaussianBlur(image, _BLUR_KERNEL_PX, sigma)


def _warp(image: np.ndarray, how: Augmentation, draws: np.ndarray) -> np.ndarray:
    """Enlarge a window of the picture and turn it about its middle."""
    height, width = image.shape[:2]
    size = np.array([width, height], np.float64)
    room = (1.0 - how.crop) / 2.0 * size
    middle = size / 2.0 + draws[:2] * room
    angle = np.deg2rad(draws[2] * how.rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * how.crop
    # Pixel centres lie at halves; OpenCV counts them from 0.
    shift = middle - turn @ (size / 2.0 - 0.5) - 0.5
    return cv2.warpAffine(
        image,
        np.column_stack([turn, shift]),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _recolour(image: np.ndarray, how: Augmentation, draws: np.ndarray) -> np.ndarray:
    brightness, contrast, saturation, hue = draws
    pixels = image.astype(np.float32) * np.float32(1.0 + brightness * how.brightness)
    pixels = np.clip(pixels, 0.0, 255.0)
    pixels = _blend(pixels, (pixels @ _GREY).mean(), 1.0 + contrast * how.contrast)
    pixels = _blend(pixels, (pixels @ _GREY)[..., None], 1.0 + saturation * how.saturation)
    changed = np.rint(pixels).astype(np.uint8)
    if how.hue == 0.0:
        return changed
    hsv = cv2.cvtColor(changed, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(hue * how.hue * 256.0) % 256)  # 256 steps a turn, wraps around
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _blend(pixels: np.ndarray, other: np.ndarray | float, factor: float) -> np.ndarray:
    share = np.float32(factor)
    return np.clip(other + (pixels - other) * share, 0.0, 255.0)
