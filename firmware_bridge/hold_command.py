"""`molmoact-arm hold-to-run`: a dead man's switch for a program that drives an arm."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any

from firmware_bridge.port_options import UserError
from firmware_bridge.stop_socket import HOLD, HOLD_SILENCE_S, connect

CONNECT_TIMEOUT_S = 5.0
POLL_S = 0.1
# A key that is held repeats: the first time after up to 0.7 s, then every 0.05 s or sooner.
FIRST_REPEAT_S = 1.5
REPEAT_S = 0.7
KEEP_ALIVE_S = HOLD_SILENCE_S / 4.0


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of `molmoact-arm`."""
    parser = commands.add_parser(
        "hold-to-run",
        help="a dead man's switch: the arm may move while a key is held",
        description="Hold any key, such as the space bar, to let 'molmoact-edge run --dead-man' "
        "drive the arm. When the key is let go, the terminal closes or the network is gone, the "
        "arm is let down. Start it before the run; instead of a keyboard, a program may send bytes "
        "to its standard input.",
        epilog="example: molmoact-arm hold-to-run --port /dev/ttyACM0",
    )
    parser.add_argument("--port", required=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Hold the switch while a key is held; return 0 when it was let go or the run has ended."""
    print("hold a key down to let the arm run; let go to stop it", flush=True)
    with _single_keys():
        key = _Key()
        if not key.wait():
            return 0
        with _connected(arguments.port, key) as client:
            return _hold(client, key)


class _Key:
    """A key on standard input, which counts as held while bytes keep coming."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._repeats = False

    def wait(self) -> bool:
        """Block until the key goes down; False when the input has ended."""
        select.select([sys.stdin], [], [])
        return self.held(0.0)

    def held(self, wait_s: float) -> bool:
        """Look for up to `wait_s`; return whether the key is down."""
        ready, _, _ = select.select([sys.stdin], [], [], wait_s)
        if ready:
            if not os.read(sys.stdin.fileno(), 1024):
                return False
            patience_s = REPEAT_S if self._repeats else FIRST_REPEAT_S
            self._repeats = self._until_s > 0.0
            self._until_s = time.monotonic() + patience_s
        return time.monotonic() < self._until_s


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Have the terminal give every key at once and show none of them; Ctrl-C works on."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, before)


@contextlib.contextmanager
def _connected(port: str, key: _Key) -> Iterator[socket.socket]:
    """Wait for a run at `port` as long as the key is held."""
    waiting = False
    while (client := connect(port, CONNECT_TIMEOUT_S)) is None:
        if not waiting:
            waiting = True
            print(f"{port}: waiting for a run; keep holding", flush=True)
        if not key.held(POLL_S):
            raise UserError(f"{port}: let go before a run was there; nothing was stopped")
    with client:
        yield client


def _hold(client: socket.socket, key: _Key) -> int:
    try:
        client.sendall(f"{HOLD}\n".encode())
        words = client.recv(256).decode().split()
        if words[:1] == ["refused"]:
            raise UserError(f"the run takes no dead man's switch: {' '.join(words[1:])}")
        print(f"holding {' '.join(words[2:])} (process {' '.join(words[1:2])})", flush=True)
        client.setblocking(False)
        while key.held(KEEP_ALIVE_S):
            client.sendall(b".")
            with contextlib.suppress(BlockingIOError):
                if not client.recv(256):
                    print("the run has ended")
                    return 0
    except OSError:
        print("the run has ended")
        return 0
    print("let go: the arm is let down")
    return 0
