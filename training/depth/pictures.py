"""All pictures of an episode in order, decoded once from front to back.

What `training.datasets.pictures` gives one by one (LeRobot's reader decodes from the last key frame
for every picture), for those who want every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np

from edge.errors import one_line
from training.datasets.dataset_files import DatasetError, DatasetFiles

_TOLERANCE = 0.25  # of the time between frames, that a picture may be away from where it should be


def episode_pictures(dataset: DatasetFiles, episode: int, camera: str) -> Iterator[np.ndarray]:
    """Yield every picture, (height, width, 3) uint8 RGB; raise `DatasetError` when one is missing.

    `camera` is a feature key that is kept as video, see `check_camera`.
    """
    listed = dataset.episodes[episode]
    file, start_s = listed.videos[camera]
    wanted = 0
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            # A frame early, so that rounding does not lose the first.
            container.seek(round(start_s / stream.time_base) - 1, stream=stream)
            for picture in container.decode(stream):
                if picture.pts is None:
                    continue
                frame = (float(picture.pts * stream.time_base) - start_s) * dataset.fps
                if frame < wanted - _TOLERANCE:
                    continue
                if wanted == listed.frames or frame > wanted + _TOLERANCE:
                    break
                yield picture.to_ndarray(format="rgb24")
                wanted += 1
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise DatasetError(
            f"{file}: episode {episode}, frame {wanted}: no picture ({one_line(error, 120)}); "
            "copy the dataset again"
        ) from None
    if wanted < listed.frames:
        raise DatasetError(
            f"{file}: episode {episode} has {wanted} pictures of {camera}, the dataset says "
            f"{listed.frames}; copy the dataset again"
        )


def check_camera(dataset: DatasetFiles, camera: str | None) -> str:
    """Return the camera to annotate, the first of the dataset unless named."""
    known = dataset.cameras
    if not known:
        raise DatasetError(
            f"{dataset.folder} has no camera that is kept as video; record it with videos"
        )
    if camera is None:
        return known[0]
    if camera not in known:
        raise DatasetError(
            f"{dataset.folder} has no camera {camera!r} kept as video; it has: {', '.join(known)}"
        )
    return camera
