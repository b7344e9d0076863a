"""Keep camera pictures of a run in memory, at a low rate, away from the control tick.

Pictures are scaled down and kept as JPEG, about 10 kB each, in a thread of their own; a long run
keeps its last part.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from edge.camera import Camera
from edge.errors import EdgeError

RECORD_HZ = 10.0
PICTURE_HEIGHT = 240
MAX_SECONDS = 600.0
JPEG_QUALITY = 92
EXTRAS = ("av", "matplotlib")


class RecordingError(EdgeError):
    """A run cannot be recorded as asked."""


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """What the cameras showed at one moment: JPEG bytes per camera, None before a first frame."""

    t_s: float
    pictures: tuple[bytes | None, ...]


def require_recording_extras() -> None:
    """Raise RecordingError, naming the install command, when plots or video cannot be made."""
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        raise RecordingError(
            f"--record needs {' and '.join(missing)}, not installed here; "
            "install with: pip install 'molmoact-edge[demo]'"
        )


class Recorder:
    """Sample the newest frame of every camera until stopped, at RECORD_HZ at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cameras: list[Camera] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.frames: deque[RecordedFrame] = deque(maxlen=int(MAX_SECONDS * RECORD_HZ))

    def start(self, cameras: list[Camera]) -> None:
        """Begin to sample."""
        self._cameras = cameras
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the frames stay. Safe when it was never started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _sample(self) -> None:
        pictures = []
        for camera in self._cameras:
            frame = camera.latest()
            pictures.append(None if frame is None else _jpeg(frame.image))
        self.frames.append(RecordedFrame(self._clock(), tuple(pictures)))

    def _run(self) -> None:
        """Sample, and wait: a late picture puts off the next, since a film takes no two at once."""
        while not self._stop.is_set():
            self._sample()
            self._stop.wait(1.0 / RECORD_HZ)


def _jpeg(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    if height > PICTURE_HEIGHT:
        size = (max(1, round(width * PICTURE_HEIGHT / height)), PICTURE_HEIGHT)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
