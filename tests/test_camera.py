import threading
import time

import numpy as np
import pytest

from edge.camera import CameraError, V4l2Camera, open_cameras, stale_camera, wait_for_frames
from edge.frame_file import FrameFile
from edge.profile import CameraProfile, load_profile

FRAME_FILES = load_profile("sim").cameras
DEVICE = CameraProfile("front", "v4l2", "/dev/video-none", 0.5, 64, 48, 30)


class FakeCapture:
    """Gives `frames` one by one, then fails every read, as an unplugged camera does."""

    def __init__(self, frames):
        self.frames = list(frames)
        self.exhausted = threading.Event()
        self.released = False

    def grab(self):
        self.grabbed = self.frames.pop(0) if self.frames else None
        if self.grabbed is None:
            self.exhausted.set()
        return self.grabbed is not None

    def retrieve(self):
        return True, self.grabbed

    def release(self):
        self.released = True


def test_frame_file_cameras_open_in_profile_order(tmp_path):
    for number, profile in enumerate(FRAME_FILES):
        writer = FrameFile.create(tmp_path / profile.path, 4, 4)
        writer.publish(np.full((4, 4, 3), number, np.uint8), 7.5)
    cameras = open_cameras(FRAME_FILES, tmp_path)
    assert [int(camera.latest().image[0, 0, 0]) for camera in cameras] == [0, 1]
    assert cameras[0].latest().age_s(8.0) == pytest.approx(0.5)
    cameras[0].close()
    cameras[0].close()
    assert cameras[0].latest() is None


def test_missing_frame_file_is_named(tmp_path):
    with pytest.raises(CameraError, match=r"front.frame: cannot open the frame file"):
        open_cameras(FRAME_FILES, tmp_path)


def test_missing_device_is_named():
    with pytest.raises(CameraError, match="camera front: /dev/video-none does not exist"):
        open_cameras((DEVICE,), None)


def test_device_that_is_no_camera_is_refused(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "video9").write_bytes(b"not a camera")
    profile = CameraProfile("front", "v4l2", str(tmp_path / "video9"), 0.5, 64, 48, 30)
    with pytest.raises(CameraError, match="camera front: cannot open"):
        open_cameras((profile,), None)


def test_capture_thread_keeps_the_newest_frame_as_rgb():
    blue_bgr = np.zeros((2, 2, 3), np.uint8)
    blue_bgr[..., 0] = 255
    capture = FakeCapture([np.zeros((2, 2, 3), np.uint8), blue_bgr])
    camera = V4l2Camera(DEVICE, lambda profile: capture, clock=lambda: 3.0)
    assert capture.exhausted.wait(5.0)
    frame = camera.latest()
    assert frame.index == 1
    assert frame.t_s == 3.0
    np.testing.assert_array_equal(frame.image[0, 0], [0, 0, 255])
    camera.close()
    assert capture.released


def test_unplugged_camera_keeps_its_old_frame_which_ages():
    capture = FakeCapture([np.zeros((2, 2, 3), np.uint8)])
    camera = V4l2Camera(DEVICE, lambda profile: capture, clock=lambda: 3.0)
    assert capture.exhausted.wait(5.0)
    assert camera.latest().age_s(9.0) == 6.0
    reason = stale_camera([camera.latest()], (DEVICE,), 9.0)
    assert reason == "camera front: newest frame is 6000 ms old, limit 500"
    assert stale_camera([camera.latest()], (DEVICE,), 3.5) is None
    camera.close()


def test_camera_without_a_picture_is_named_at_the_deadline():
    camera = V4l2Camera(DEVICE, lambda profile: FakeCapture([]))
    started_s = time.monotonic()
    with pytest.raises(CameraError, match=r"camera front: no frame yet \(waited 0.1 s\); check"):
        wait_for_frames([camera], (DEVICE,), 0.1)
    assert time.monotonic() - started_s < 5.0
    camera.close()


def test_waiting_ends_only_with_a_fresh_frame(tmp_path):
    writer = FrameFile.create(tmp_path / "front.frame", 4, 4)
    writer.publish(np.zeros((4, 4, 3), np.uint8), time.monotonic() - 60.0)
    cameras = open_cameras(FRAME_FILES[:1], tmp_path)
    with pytest.raises(CameraError, match=r"newest frame is 60\d\d\d ms old, limit 1000"):
        wait_for_frames(cameras, FRAME_FILES[:1], 0.1)
    writer.publish(np.zeros((4, 4, 3), np.uint8), time.monotonic())
    wait_for_frames(cameras, FRAME_FILES[:1], 0.1)


def test_frame_file_is_copied_no_more_often_than_the_limit(tmp_path):
    writer = FrameFile.create(tmp_path / FRAME_FILES[0].path, 4, 4)
    (camera,) = open_cameras(FRAME_FILES[:1], tmp_path)
    camera.limit_rate(2.0)
    seen = []
    for tenth in range(12):
        writer.publish(np.full((4, 4, 3), tenth, np.uint8), tenth / 10)
        seen.append(int(camera.latest().image[0, 0, 0]))
        assert camera.newest_s() == tenth / 10  # whoever publishes is alive
    assert seen == [0] * 5 + [5] * 5 + [10] * 2
    camera.limit_rate(None)
    assert int(camera.latest().image[0, 0, 0]) == 11


class ClockedCapture(FakeCapture):
    """Waits for each frame of a device of 30 a second; frames come a little early or late."""

    def __init__(self, n_frames, jitter_s):
        super().__init__([np.zeros((2, 2, 3), np.uint8)] * n_frames)
        self.now_s, self.n_grabbed, self.decoded_s = 0.0, 0, []
        self.jitter_s = jitter_s

    def grab(self):
        self.now_s = self.n_grabbed / DEVICE.fps + self.jitter_s * (-1) ** (self.n_grabbed // 2)
        self.n_grabbed += 1
        return super().grab()

    def retrieve(self):
        self.decoded_s.append(self.now_s)
        return super().retrieve()


def decoded_s(monkeypatch, seconds, jitter_s, rates_hz):
    """Give a camera one limit after the other, each for so many seconds; return when it decoded."""
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    monkeypatch.setattr("edge.camera.RETRY_PAUSE_S", 0.0)
    n_frames = seconds * DEVICE.fps
    capture = ClockedCapture(n_frames * len(rates_hz), jitter_s)
    camera = V4l2Camera(DEVICE, lambda profile: capture, clock=lambda: capture.now_s)
    monkeypatch.setattr(camera._stop, "wait", lambda seconds: camera._stop.set())
    grab = capture.grab

    def limited():
        camera.limit_rate(rates_hz[min(capture.n_grabbed // n_frames, len(rates_hz) - 1)])
        return grab()

    capture.grab = limited
    camera._run()
    assert camera.latest().t_s == capture.decoded_s[-1]
    return np.array(capture.decoded_s)


@pytest.mark.parametrize("jitter_s", [0.0, 0.004])
@pytest.mark.parametrize("rate_hz", [None, 25.0, 20.0, 15.0, 10.0, 7.0, 5.0, 0.5])
def test_device_runs_on_and_as_many_frames_are_decoded_as_the_rate_says(
    monkeypatch, rate_hz, jitter_s
):
    times_s = decoded_s(monkeypatch, 60, jitter_s, [rate_hz])
    assert len(times_s) == pytest.approx(60 * (rate_hz or DEVICE.fps), abs=1.01)
    # What `edge.ladder_rungs` takes for the oldest that a picture becomes.
    oldest_s = 0.0 if rate_hz is None else 1.0 / rate_hz
    assert np.diff(times_s).max() <= oldest_s + 1.0 / DEVICE.fps + 2 * jitter_s + 1e-9


def test_a_rate_that_is_taken_back_is_gone_with_the_next_frame(monkeypatch):
    times_s = decoded_s(monkeypatch, 10, 0.0, [0.1, None])
    assert np.sum(times_s < 10.0) == 1
    assert np.sum(times_s >= 10.0) == 10 * DEVICE.fps
