"""Start the simulated arm and desk in a process of their own, and see that it goes away again.

The simulator is started by name, so the runtime never imports it. It leads its own process group:
a Ctrl-C in the terminal reaches this program only, which first lets the arm down and then ends
the simulator. Should this program be killed, the simulator notices and ends by itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edge.errors import EdgeError
from edge.profile import CameraProfile

READY_TIMEOUT_S = 90.0
END_TIMEOUT_S = 10.0
POLL_S = 0.05
INSTALL_HINT = "install what it needs with: pip install 'molmoact-edge[demo]'"


class SimulatorError(EdgeError):
    """The simulator did not start, or ended while it was needed."""


class SimulatedWorld:
    """A running simulator; its port, frames and calibration lie in one folder."""

    def __init__(self, folder: Path, seed: int, camera: CameraProfile) -> None:
        """Start it; `camera` gives the size and rate of every simulated camera."""
        self.link = folder / "port"
        self.frames_dir = folder / "frames"
        self.calibration = folder / "calibration.json"
        self._output = folder / "output.txt"
        self._errors = folder / "errors.txt"
        self._stopped = False
        self.frames_dir.mkdir()
        command = [sys.executable, "-m", "sim.world"]
        command += ["--link", str(self.link), "--frames", str(self.frames_dir)]
        command += ["--calibration", str(self.calibration), "--seed", str(seed)]
        # Named here: by the time the simulator could ask, this program might be gone already.
        command += ["--parent", str(os.getpid())]
        command += ["--size", f"{camera.width}x{camera.height}", "--camera-hz", str(camera.fps)]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the group's."""
        return self._process.pid

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Block until port, frames and calibration are there; SimulatorError when they are not."""
        deadline_s = time.monotonic() + timeout_s
        while not self._output.read_text(errors="replace").startswith("ready "):
            if problem := self.ended():
                raise SimulatorError(problem)
            if time.monotonic() > deadline_s:
                raise SimulatorError(
                    f"the simulator was not ready after {timeout_s:.0f} s: {self._last_error()}"
                )
            time.sleep(POLL_S)

    def ended(self) -> str | None:
        """Say why the simulator is not running; None while it is."""
        if self._process.poll() is None:
            return None
        exit_code = self._process.returncode
        return f"the simulator ended with exit code {exit_code}: {self._last_error()}"

    def stop(self) -> dict[str, Any] | None:
        """End every process of the simulator; return the summary it printed, if it did.

        Safe to call twice; the second call returns None.
        """
        if self._stopped:
            return None
        self._stopped = True
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._end_group()
        lines = self._output.read_text(errors="replace").strip().splitlines()
        if not lines or not lines[-1].startswith("{"):
            return None
        try:
            return json.loads(lines[-1])
        except json.JSONDecodeError:
            return None

    def _end_group(self) -> None:
        deadline_s = time.monotonic() + END_TIMEOUT_S
        signal_number = 0  # ask only; what outlives the leader by a second is killed
        while time.monotonic() < deadline_s:
            try:
                os.killpg(self._process.pid, signal_number)
            except ProcessLookupError:
                return
            if time.monotonic() > deadline_s - END_TIMEOUT_S + 1.0:
                signal_number = signal.SIGKILL
            time.sleep(POLL_S)

    def _last_error(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it printed no error"
        return f"{last}; {INSTALL_HINT}" if "No module named" in last else last
