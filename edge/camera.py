"""Cameras give their newest frame at once, with its age; nobody waits for a shutter.

`FrameFileCamera` reads what another process publishes (the simulator). `V4l2Camera` runs OpenCV
in a thread of its own, because a driver may block for a second, and keeps only the last frame.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge.errors import EdgeError
from edge.frame_file import FrameFile, FrameFileError
from edge.profile import SOURCE_FRAME_FILE, CameraProfile

RETRY_PAUSE_S = 0.05


class CameraError(EdgeError):
    """A camera that is absent, unreadable, or silent; the text is one line for a user."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture and when it was taken."""

    image: np.ndarray  # (height, width, 3) uint8 RGB, not written to again
    t_s: float  # time.monotonic
    index: int  # counts the camera's frames from 0

    def age_s(self, now_s: float) -> float:
        """Return how old the picture is."""
        return now_s - self.t_s


class Camera(Protocol):
    """Anything that can show its newest frame without blocking."""

    def latest(self) -> Frame | None:
        """Return the newest frame, None before the first."""
        ...

    def newest_s(self) -> float:
        """Return when the newest frame was captured, nan before the first; next to free."""
        ...

    def limit_rate(self, hz: float | None) -> None:
        """Give no more than so many frames a second from now on; None gives all."""
        ...

    def close(self) -> None:
        """Release the device; safe to call twice."""
        ...


class FrameFileCamera:
    """Read the frames another process publishes into a file."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: FrameFile | None = FrameFile.open(path)
        except FrameFileError as error:
            raise CameraError(str(error)) from error
        self._least_gap_s = 0.0
        self._given: Frame | None = None

    def latest(self) -> Frame | None:
        """Return a copy of the newest whole frame that the rate allows."""
        given = self._given
        if given is not None and self.newest_s() - given.t_s < self._least_gap_s:
            return given
        latest = self._file.latest() if self._file else None
        self._given = Frame(*latest) if latest else None
        return self._given

    def newest_s(self) -> float:
        """Return when the newest frame was captured."""
        return self._file.newest_s() if self._file else math.nan

    def limit_rate(self, hz: float | None) -> None:
        """Copy no more than so many frames a second; whoever publishes them goes on."""
        self._least_gap_s = 0.0 if hz is None else 1.0 / hz

    def close(self) -> None:
        """Unmap the file."""
        if self._file:
            self._file.close()
            self._file = None


class V4l2Camera:
    """Capture from a Linux video device through OpenCV, in a thread."""

    def __init__(
        self,
        profile: CameraProfile,
        open_capture: Callable[[CameraProfile], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = f"camera {profile.name} ({profile.path})"
        self._clock = clock
        self._capture = (open_capture or _open_capture)(profile)
        self._newest: tuple[np.ndarray, float, int] | None = None
        self._least_gap_s = 0.0
        self._half_frame_s = 0.5 / profile.fps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def latest(self) -> Frame | None:
        """Return the newest frame as RGB."""
        newest = self._newest
        if newest is None:
            return None
        image, t_s, index = newest
        return Frame(np.ascontiguousarray(image[:, :, ::-1]), t_s, index)

    def newest_s(self) -> float:
        """Return when the newest frame was captured."""
        newest = self._newest
        return math.nan if newest is None else newest[1]

    def limit_rate(self, hz: float | None) -> None:
        """Decode so many frames a second on average; the device goes on at its own rate."""
        self._least_gap_s = 0.0 if hz is None else 1.0 / hz

    def close(self) -> None:
        """Stop the thread, then release the device."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        if self._capture is not None and not self._thread.is_alive():
            self._capture.release()
            self._capture = None

    def _run(self) -> None:
        index = 0
        due_s = -math.inf  # when the last decoded frame was due, not when it came: it comes later
        while not self._stop.is_set():
            captured, image = self._capture.grab(), None  # waits for the next frame
            now_s, gap_s = self._clock(), self._least_gap_s
            since_s = now_s - due_s
            if captured and since_s >= gap_s - self._half_frame_s:
                due_s = due_s + gap_s if since_s < 2.0 * gap_s else now_s
                captured, image = self._capture.retrieve()
            if not captured:
                # The last frame ages meanwhile, which is what the staleness check acts on.
                self._stop.wait(RETRY_PAUSE_S)
                continue
            if image is not None:
                self._newest = (image, now_s, index)
            index += 1


def open_cameras(profiles: tuple[CameraProfile, ...], frames_dir: Path | None) -> list[Camera]:
    """Open every camera of a profile, in its order; closes those already open on a failure."""
    cameras: list[Camera] = []
    try:
        for profile in profiles:
            if profile.source == SOURCE_FRAME_FILE:
                if frames_dir is None:
                    raise CameraError(f"camera {profile.name}: no simulator publishes frames")
                cameras.append(FrameFileCamera(frames_dir / profile.path))
            else:
                cameras.append(V4l2Camera(profile))
    except CameraError:
        close_cameras(cameras)
        raise
    return cameras


def close_cameras(cameras: list[Camera]) -> None:
    """Close every camera."""
    for camera in cameras:
        camera.close()


def wait_for_frames(
    cameras: list[Camera], profiles: tuple[CameraProfile, ...], timeout_s: float
) -> None:
    """Block until every camera has a fresh frame; CameraError names the one that has none."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        frames = [camera.latest() for camera in cameras]
        problem = stale_camera(frames, profiles, time.monotonic())
        if problem is None:
            return
        if time.monotonic() > deadline_s:
            raise CameraError(
                f"{problem} (waited {timeout_s:.1f} s); check that the camera is connected and "
                "not in use by another program"
            )
        time.sleep(RETRY_PAUSE_S)


def stale_camera(
    frames: list[Frame | None], profiles: tuple[CameraProfile, ...], now_s: float
) -> str | None:
    """Name the first camera whose frame is missing or too old for its profile, else None."""
    for frame, profile in zip(frames, profiles, strict=True):
        if frame is None:
            return f"camera {profile.name}: no frame yet"
        if frame.age_s(now_s) > profile.max_age_s:
            return (
                f"camera {profile.name}: newest frame is {frame.age_s(now_s) * 1e3:.0f} ms old, "
                f"limit {profile.max_age_s * 1e3:.0f}"
            )
    return None


def _open_capture(profile: CameraProfile) -> Any:
    if not Path(profile.path).exists():
        raise CameraError(
            f"camera {profile.name}: {profile.path} does not exist; "
            "list the cameras with 'v4l2-ctl --list-devices' and correct the profile"
        )
    import cv2

    capture = cv2.VideoCapture(profile.path, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraError(
            f"camera {profile.name}: cannot open {profile.path}; "
            "it may be in use, or this user may not be in the group 'video'"
        )
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, profile.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, profile.height)
    capture.set(cv2.CAP_PROP_FPS, profile.fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    if (width, height) != (profile.width, profile.height):
        capture.release()
        raise CameraError(
            f"camera {profile.name}: {profile.path} gives {width}x{height} pixels, the profile "
            f"asks for {profile.width}x{profile.height}; set a size the camera has"
        )
    return capture
