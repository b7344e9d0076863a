"""Render what the cameras see, in a process of its own, from states that arrive on a pipe.

Rendering takes milliseconds and holds the interpreter, so it must not share a process with the
serial bus. The physics process writes fixed-size state records (smaller than PIPE_BUF, so a write
is whole or absent) to this process's standard input; at every frame time the newest one is
rendered by each camera and published as a `FrameFile`. When the pipe closes, however the writer
ended, this process removes its frame files and ends too.

Started by `sim.camera_process`; its standard output is one line `ready` after the first frames
and one JSON line of statistics at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

import mujoco
import numpy as np

from edge.frame_file import FrameFile
from firmware_bridge.command_line import CommandParser
from sim.camera_process import CAMERA_NAMES, N_BEFORE_QPOS, frame_path, parse_size
from sim.model import WORLD_XML
from sim.variation import Look

NICENESS = 5
READ_BYTES = 65536


class StateStream:
    """The newest whole state record of a pipe."""

    def __init__(self, fd: int, n_values: int) -> None:
        self._fd = fd
        self._record_bytes = 8 * n_values
        self._pending = b""
        self.is_open = True

    def newest(self, until_s: float) -> np.ndarray | None:
        """Collect records until `until_s` (monotonic); return the last, or None."""
        record = None
        while self.is_open:
            wait_s = max(0.0, until_s - time.monotonic())
            if not select.select([self._fd], [], [], wait_s)[0]:
                break
            chunk = os.read(self._fd, READ_BYTES)
            if not chunk:
                self.is_open = False
            self._pending += chunk
            whole = len(self._pending) // self._record_bytes * self._record_bytes
            if whole:
                last = self._pending[whole - self._record_bytes : whole]
                record = np.frombuffer(last, dtype="<f8")
                self._pending = self._pending[whole:]
        return record


class CameraRig:
    """Every camera's renderer and frame file."""

    def __init__(self, frames_dir: Path, size: tuple[int, int], *, shadows: bool) -> None:
        width, height = size
        self._model = mujoco.MjModel.from_xml_path(str(WORLD_XML))
        self._model.vis.global_.offwidth = max(width, self._model.vis.global_.offwidth)
        self._model.vis.global_.offheight = max(height, self._model.vis.global_.offheight)
        self._data = mujoco.MjData(self._model)
        self._look = Look(self._model)
        self._mark_m = np.full(2, np.nan)
        self.n_qpos = int(self._model.nq)
        self._renderer = mujoco.Renderer(self._model, height, width)
        self._shadows = shadows
        frames_dir.mkdir(parents=True, exist_ok=True)
        self._files = {
            name: FrameFile.create(frame_path(frames_dir, name), height, width)
            for name in CAMERA_NAMES
        }

    def publish(self, t_s: float, mark_m: np.ndarray, qpos: np.ndarray) -> None:
        """Render the state `qpos` with every camera and publish the pictures as taken at `t_s`.

        `mark_m` (2,) is where the mark is drawn, nan for nowhere.
        """
        self._put_mark(mark_m)
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        for name, file in self._files.items():
            self._renderer.update_scene(self._data, name)
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._shadows
            file.publish(self._renderer.render(), t_s)

    def _put_mark(self, mark_m: np.ndarray) -> None:
        if np.array_equal(mark_m, self._mark_m, equal_nan=True):
            return
        self._mark_m = mark_m.copy()
        self._look.apply(None)
        if np.isfinite(mark_m).all():
            self._look.show_mark((float(mark_m[0]), float(mark_m[1])))

    def close(self) -> None:
        """Free the renderer and remove the frame files."""
        self._renderer.close()
        for file in self._files.values():
            file.close()
            file.path.unlink(missing_ok=True)


def render_until_closed(rig: CameraRig, stream: StateStream, rate_hz: float) -> dict[str, float]:
    """Publish frames at `rate_hz` until the stream ends; return the statistics of the run.

    Frame times are absolute; those missed are counted and skipped. A state is rendered once, so
    frames stop when states do.
    """
    interval_s = 1.0 / rate_hz
    render_ms: list[float] = []
    missed = 0
    deadline_s = time.monotonic()
    while True:
        record = stream.newest(deadline_s)
        if not stream.is_open:
            break
        if record is not None:
            start_s = time.monotonic()
            rig.publish(float(record[0]), record[1:N_BEFORE_QPOS], record[N_BEFORE_QPOS:])
            render_ms.append(1e3 * (time.monotonic() - start_s))
            if len(render_ms) == 1:
                print("ready", flush=True)
        deadline_s += interval_s
        late = int((time.monotonic() - deadline_s) // interval_s) + 1
        if late > 0:
            missed += late
            deadline_s += late * interval_s
    return _statistics(render_ms, missed)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog="python -m sim.cameras",
        description="Render simulator states from standard input into frame files.",
        epilog="Started by sim.world: python -m sim.world --link /tmp/arm --frames /tmp/frames",
    )
    parser.add_argument("--frames", type=Path, required=True, metavar="DIR")
    parser.add_argument("--size", type=parse_size, required=True, metavar="WxH")
    parser.add_argument("--hz", type=float, required=True)
    parser.add_argument("--shadows", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Render until standard input closes."""
    args = build_parser().parse_args(argv)
    # Ctrl-C reaches the whole process group; the end of the pipe is what ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Frames may be late, serial replies may not.
    os.nice(NICENESS)
    rig = CameraRig(args.frames, args.size, shadows=args.shadows)
    try:
        stream = StateStream(sys.stdin.fileno(), N_BEFORE_QPOS + rig.n_qpos)
        statistics = render_until_closed(rig, stream, args.hz)
    finally:
        rig.close()
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(statistics), flush=True)
    return 0


def _statistics(render_ms: list[float], missed: int) -> dict[str, float]:
    # The first frame pays for compiling shaders.
    steady = np.array(render_ms[1:] or [0.0])
    return {
        "frames": len(render_ms),
        "missed": missed,
        "render_ms_p50": round(float(np.percentile(steady, 50)), 2),
        "render_ms_p99": round(float(np.percentile(steady, 99)), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
