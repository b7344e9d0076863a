"""A command of `molmoact-arm` in a terminal of its own, with somebody reading and typing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from emulated_arm import ROOT

TIMEOUT_S = 40.0


class AtTerminal:
    """Reads what a command shows and types to it."""

    def __init__(self, process: subprocess.Popen, terminal: int) -> None:
        self.process = process
        self.text = ""
        self._terminal = terminal
        self._seen = 0

    def expect(self, words: str) -> None:
        """Read on until `words` appear behind what was expected before."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while self.text.find(words, self._seen) < 0:
            assert time.monotonic() < deadline_s, f"no {words!r} in:\n{self.text}"
            assert self._read() or self.process.poll() is None, (
                f"ended without {words!r}:\n{self.text}"
            )
        self._seen = self.text.find(words, self._seen) + len(words)

    def type(self, line: str = "") -> None:
        """Type a line."""
        os.write(self._terminal, line.encode() + b"\n")

    def press_ctrl_c(self) -> None:
        """Send what the key sends."""
        os.write(self._terminal, b"\x03")

    def end(self) -> int:
        """Wait for the end and return the exit code."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"did not end:\n{self.text}"
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 0.05)[0]:
            return False
        try:
            data = os.read(self._terminal, 4096)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@contextmanager
def at_terminal(*arguments: str, **environment: str) -> Iterator[AtTerminal]:
    terminal, side = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "firmware_bridge.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(side)
    try:
        yield AtTerminal(process, terminal)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(terminal)


def take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C reaches the process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
