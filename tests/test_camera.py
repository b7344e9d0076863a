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

    def read(self):
        if self.frames:
            return True, self.frames.pop(0)
        self.exhausted.set()
        return False, None

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


class GrabbingCapture(FakeCapture):
    """Also takes frames without decoding them; each frame advances the clock by 0.1 s."""

    def __init__(self, n_frames):
        super().__init__([np.full((2, 2, 3), number, np.uint8) for number in range(n_frames)])
        self.now_s = 0.0
        self.decoded = []

    def read(self):
        self.now_s = round(self.now_s + 0.1, 3)
        captured, image = super().read()
        if captured:
            self.decoded.append(int(image[0, 0, 0]))
        return captured, image

    def grab(self):
        self.now_s = round(self.now_s + 0.1, 3)
        return super().read()[0]


def test_device_runs_on_and_only_frames_that_are_due_are_decoded(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    capture = GrabbingCapture(10)
    camera = V4l2Camera(DEVICE, lambda profile: capture, clock=lambda: capture.now_s)
    camera.limit_rate(2.5)  # every 0.4 s
    monkeypatch.setattr("edge.camera.RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(camera._stop, "wait", lambda seconds: camera._stop.set())
    camera._run()
    assert capture.decoded == [0, 5]
    assert camera.latest().index == 5
