"""What `Policy.act` is given, checked; everything that does not fit is refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from edge.errors import ObservationError, shown
from edge.manifest import MAX_CAMERAS
from edge.normalization import RobotTag

DepthMode = Literal["off", "full", "incremental"]
DEPTH_MODES: tuple[str, ...] = get_args(DepthMode)
ActionsMode = Literal["continuous", "discrete"]
_MAX_SIDE_PX = 8192


def check_observation(
    images: Sequence[np.ndarray], state: np.ndarray, tag: RobotTag, depth: str, depth_cells: int
) -> None:
    """Raise `ObservationError` unless pictures, state and depth mode fit checkpoint and tag."""
    if depth not in DEPTH_MODES:
        raise ObservationError(f"depth is {depth!r}; choose {', '.join(DEPTH_MODES)}")
    if depth != "off" and not depth_cells:
        raise ObservationError("this checkpoint has no depth tokens; use depth='off'")
    wanted = str(len(tag.cameras)) if tag.cameras else f"1 to {MAX_CAMERAS}"
    fits = 0 < len(images) <= MAX_CAMERAS and len(images) == (len(tag.cameras) or len(images))
    if not fits:
        names = f" ({', '.join(tag.cameras[:MAX_CAMERAS])})" if tag.cameras else ""
        raise ObservationError(
            f"{len(images)} images given; norm_tag {tag.name!r} needs {wanted}{names}"
        )
    for number, image in enumerate(images):
        check_image(image, f"image {number}")
    state = numbers(state, "state")
    if state.shape != (tag.state.dim,):
        raise ObservationError(
            f"state has shape {state.shape}; norm_tag {tag.name!r} needs ({tag.state.dim},)"
        )
    finite = np.abs(state) <= np.finfo(np.float32).max  # NaN is not
    if not finite.all():
        joint = int(np.argmin(finite))
        raise ObservationError(
            f"state[{joint}] is {state[joint]}; every joint position must be finite: check the "
            "arm's readings"
        )


def check_image(image: np.ndarray, name: str) -> None:
    """Raise `ObservationError` unless `image` is (height, width, 3) uint8 of a sensible size."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    fits = isinstance(image, np.ndarray) and dtype == np.uint8 and len(shape) == 3 and shape[2] == 3
    if not fits or not all(1 < side <= _MAX_SIDE_PX for side in shape[:2]):
        raise ObservationError(
            f"{name} is {dtype} {shape}; (height, width, 3) uint8 RGB with sides of 2 to "
            f"{_MAX_SIDE_PX} pixels is needed"
        )


def check_noise(noise: object, shape: tuple[int, ...]) -> np.ndarray:
    """Return `noise` as float32, or raise `ObservationError` when it has not that shape."""
    array = numbers(noise, "noise").astype(np.float32)
    if array.shape != shape or not np.all(np.isfinite(array)):
        raise ObservationError(
            f"noise has shape {array.shape}; finite numbers of shape {shape} are needed"
        )
    return array


def numbers(values: object, name: str) -> np.ndarray:
    """Take an array of real numbers as float64; `ObservationError` for anything else."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError):  # lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu":
        raise ObservationError(f"{name} is {shown(values)}; an array of numbers is needed")
    return array.astype(np.float64)
