"""Pictures of a LeRobot v3 dataset, one at a time and in any order.

The pictures are those of LeRobot's own PyAV reader, to the last bit. That reader opens the file
for every picture and stacks them as tensors; here files stay open, the decoder gets no more packets
than it needs and nothing but the wanted picture is converted: 1.0 to 1.6 ms a picture of recorded
demonstrations (320x240, a quiet core) instead of 4.7 to 5.1, and no PyTorch.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from edge.errors import one_line
from training.datasets.dataset_files import DatasetError, DatasetFiles

_KEPT_FILES = 32
_TOLERANCE = 0.25  # of the time between frames, that a picture may be away from where it should be


class PictureReader:
    """Decodes the cameras of one dataset; every process that uses it opens files of its own."""

    def __init__(self, dataset: DatasetFiles) -> None:
        self._dataset = dataset
        self._open: OrderedDict[Path, av.container.InputContainer] = OrderedDict()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[PictureReader], tuple[DatasetFiles]]:
        """Travel to another process without the open files."""
        return PictureReader, (self._dataset,)

    def picture(self, episode: int, frame: int, camera: str) -> np.ndarray:
        """Decode one picture, (height, width, 3) uint8 RGB; raise `DatasetError`."""
        file, start_s = self._dataset.episodes[episode].videos[camera]
        try:
            return self._decode(file, start_s + frame / self._dataset.fps)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DatasetError(
                f"{file}: episode {episode} frame {frame}: no picture ({one_line(error, 120)}); "
                "copy the dataset again"
            ) from None

    def check_files(self, cameras: Sequence[str]) -> None:
        """Decode the last picture of every file of `cameras`; raise `DatasetError`."""
        last = {
            episode.videos[camera][0]: (episode.index, episode.frames - 1, camera)
            for camera in cameras
            for episode in self._dataset.episodes
        }
        for place in last.values():
            self.picture(*place)

    def _decode(self, file: Path, time_s: float) -> np.ndarray:
        """Decode from the key frame before `time_s` up to the frame that is shown then.

        The decoder is told that no more will come once it has that frame's packet; otherwise it
        waits for others that might be shown before it, twice as many as are needed.
        """
        container = self._container(file)
        stream = container.streams.video[0]
        tolerance_s = _TOLERANCE / self._dataset.fps
        container.seek(round((time_s + tolerance_s) / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            frames = packet.decode()
            if abs(_time_s(packet, stream) - time_s) <= tolerance_s:
                frames += stream.codec_context.decode(None)
            for frame in frames:
                found_s = _time_s(frame, stream)
                if abs(found_s - time_s) <= tolerance_s:
                    return frame.to_ndarray(format="rgb24")
                if found_s > time_s:
                    raise ValueError(f"none at {time_s:.3f} s")
        raise ValueError(f"none at {time_s:.3f} s")

    def _container(self, file: Path) -> av.container.InputContainer:
        if self._process != os.getpid():  # a fork shares the place in an open file with its parent
            self._open, self._process = OrderedDict(), os.getpid()
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        container = av.open(str(file))
        if not container.streams.video:
            raise ValueError("no video in it")
        container.streams.video[0].thread_type = "NONE"  # of one or two frames, threads cost more
        self._open[file] = container
        if len(self._open) > _KEPT_FILES:
            self._open.popitem(last=False)[1].close()
        return container


def _time_s(shown: av.VideoFrame | av.Packet, stream: av.VideoStream) -> float:
    return -math.inf if shown.pts is None else float(shown.pts * stream.time_base)
