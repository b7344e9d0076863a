"""Start, feed and end the process that renders the cameras (`sim.cameras`)."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sim.gl import ensure_gl, gl_environment

CAMERA_NAMES = ("front", "wrist")
DEFAULT_SIZE = (192, 144)
DEFAULT_RATE_HZ = 10.0
MAX_RATE_HZ = 120.0
MIN_SIDE = 16
MAX_SIDE = 4096
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
# States per frame: enough that the newest one is at most a quarter of a frame old.
STATES_PER_FRAME = 4
# A record of the pipe: the time, the mark's x and y or nan for no mark, then qpos.
N_BEFORE_QPOS = 3
NO_MARK_M = (float("nan"), float("nan"))


class CameraError(Exception):
    """The camera process did not start, or ended on its own."""


class CameraProcess:
    """The running camera process; feed it states with `publish`, end it with `close`."""

    def __init__(
        self,
        frames_dir: Path,
        first_qpos: np.ndarray,
        *,
        size: tuple[int, int] = DEFAULT_SIZE,
        rate_hz: float = DEFAULT_RATE_HZ,
        shadows: bool = False,
    ) -> None:
        """Start it and wait for the first frames of the state `first_qpos`.

        Blocks for about a second; raises GlError without off-screen OpenGL, CameraError when the
        process ends or no frame appears within START_TIMEOUT_S.
        """
        command = [sys.executable, "-m", "sim.cameras", "--frames", str(frames_dir)]
        command += ["--size", f"{size[0]}x{size[1]}", "--hz", str(rate_hz)]
        if shadows:
            command.append("--shadows")
        self._interval_s = 1.0 / rate_hz / STATES_PER_FRAME
        self._next_s = -np.inf
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=gl_environment(),
        )
        os.set_blocking(self._process.stdin.fileno(), False)
        self._await_ready(first_qpos)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def publish(self, t_s: float, qpos: np.ndarray, mark_m: np.ndarray | None = None) -> None:
        """Hand over the state at `t_s` (monotonic) when one is due; never blocks.

        `mark_m` (2,) is where on the desk the mark is to be drawn.

        Raises CameraError when the process has ended.
        """
        if t_s < self._next_s:
            return
        self._next_s = t_s + self._interval_s
        self._write(t_s, qpos, mark_m)

    def close(self) -> dict[str, float] | None:
        """End the process and return its statistics, None when it had to be killed. Idempotent."""
        process = self._process
        if process.stdin.closed:
            return None
        process.stdin.close()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        lines = process.stdout.read().decode().strip().splitlines()
        process.stdout.close()
        process.stderr.close()
        ended_well = process.returncode == 0 and lines and lines[-1].startswith("{")
        return json.loads(lines[-1]) if ended_well else None

    def _write(self, t_s: float, qpos: np.ndarray, mark_m: np.ndarray | None = None) -> None:
        mark_m = NO_MARK_M if mark_m is None else mark_m
        record = np.concatenate(([t_s], mark_m, qpos)).astype("<f8").tobytes()
        try:
            os.write(self._process.stdin.fileno(), record)
        except BlockingIOError:
            pass  # The pipe holds seconds of states; the reader will catch up.
        except BrokenPipeError:
            raise self._ended() from None

    def _await_ready(self, first_qpos: np.ndarray) -> None:
        give_up_s = time.monotonic() + START_TIMEOUT_S
        self._write(time.monotonic(), first_qpos)
        readable, _, _ = select.select([self._process.stdout], [], [], give_up_s - time.monotonic())
        if readable and self._process.stdout.readline() == b"ready\n":
            return
        if readable:
            error = self._ended()
            ensure_gl()
            raise error
        self.close()
        raise CameraError(f"the camera process rendered no frame within {START_TIMEOUT_S:.0f} s")

    def _ended(self) -> CameraError:
        process = self._process
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        lines = process.stderr.read().decode().strip().splitlines()
        self.close()
        reason = lines[-1] if lines else "no message"
        return CameraError(f"the camera process ended with {process.returncode}: {reason}")


def frame_path(frames_dir: Path, camera: str) -> Path:
    """Return the frame file of a camera."""
    return frames_dir / f"{camera}.frame"


def parse_size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT in pixels; raises ValueError."""
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    sides = [int(side) for side in match.groups()] if match else []
    if not sides or not all(MIN_SIDE <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"{text!r}: a size is WxH in pixels, each side {MIN_SIDE}..{MAX_SIDE}")
    return sides[0], sides[1]
