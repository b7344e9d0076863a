"""Start the simulated arm and desk in a process of their own, and see that it goes away again.

The simulator is started by name, so the runtime never imports it. It leads its own process group:
a Ctrl-C in the terminal reaches this program only, which first lets the arm down and then ends
the simulator. Should this program be killed, the simulator notices and ends by itself.

It is also the judge of what the arm is asked to do: instructions go to its standard input, and what
its referee finds in the physics comes back as JSON lines of its output.
"""

from __future__ import annotations

import contextlib
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
from edge.task_turns import Ruling

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
        self._heard_bytes = 0  # of the output
        self.frames_dir.mkdir()
        command = [sys.executable, "-m", "sim.world"]
        command += ["--link", str(self.link), "--frames", str(self.frames_dir)]
        command += ["--calibration", str(self.calibration), "--seed", str(seed)]
        # Named here: by the time the simulator could ask, this program might be gone already.
        command += ["--parent", str(os.getpid())]
        command += ["--judge"]
        command += ["--size", f"{camera.width}x{camera.height}", "--camera-hz", str(camera.fps)]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        os.set_blocking(self._process.stdin.fileno(), False)

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

    def judge(self, number: int, task: str) -> None:
        """Have the referee judge this task from now on; never blocks, nor fails without one."""
        line = json.dumps({"task": number, "instruction": task}) + "\n"
        with contextlib.suppress(BrokenPipeError, BlockingIOError, ValueError):
            os.write(self._process.stdin.fileno(), line.encode())

    def rulings(self) -> list[Ruling]:
        """Return what the referee said since the last call; never blocks."""
        try:
            with self._output.open("rb") as output:
                output.seek(self._heard_bytes)
                *lines, unfinished = output.read().split(b"\n")
                self._heard_bytes = output.tell() - len(unfinished)
        except OSError:
            return []
        found = (_ruling(line) for line in lines)
        return [ruling for ruling in found if ruling is not None]

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
        self._process.stdin.close()
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


def _ruling(line: bytes) -> Ruling | None:
    """Read one line of the simulator; None when it is about something else."""
    try:
        said = json.loads(line)
        why = said.get("why", "")
        return Ruling(int(said["task"]), str(said["event"]), float(said["t_s"]), why)
    except (ValueError, TypeError, KeyError):
        return None
