"""The watchdog's end of the stop socket: who asks for a stop, who holds the dead man's switch."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.stop_socket import HOLD, HOLD_SILENCE_S, STOP, peer

MAX_CLIENTS = 16
MAX_LINE_BYTES = 64


@dataclass(slots=True)
class _Client:
    process: int
    line: bytes = b""
    asked: str | None = None  # STOP, HOLD, or None before its line is in
    heard_s: float = 0.0


class StopServer:
    """Serves the clients of one stop socket without ever blocking on any of them.

    `asked_by` is the first process that asked for a stop; `let_go_by` the first holder of the dead
    man's switch that went away or fell silent. `dead_man` says whether holders are wanted.
    """

    def __init__(
        self,
        server: socket.socket,
        path: Path,
        who: str,
        *,
        dead_man: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.asked_by: int | None = None
        self.let_go_by: int | None = None
        self._server: socket.socket | None = server
        self._path = path
        self._who = who
        self._dead_man = dead_man
        self._clock = clock
        self._clients: dict[socket.socket, _Client] = {}
        server.setblocking(False)

    @property
    def holders(self) -> int:
        """How many hold the dead man's switch now."""
        return sum(client.asked == HOLD for client in self._clients.values())

    def serve(self, wait_s: float, wake: Sequence[socket.socket] = ()) -> list[socket.socket]:
        """Wait up to `wait_s` for clients and answer them; return those of `wake` to be read."""
        listening = [self._server] if self._server is not None else []
        ready, _, _ = select.select([*listening, *self._clients, *wake], [], [], wait_s)
        for readable in ready:
            if readable is self._server:
                self._accept()
            elif readable in self._clients:
                self._hear(readable)
        for connection, client in list(self._clients.items()):
            if client.asked == HOLD and self._clock() - client.heard_s > HOLD_SILENCE_S:
                self._drop(connection)
        return [one for one in wake if one in ready]

    def answer(self, line: str) -> None:
        """Tell everybody who asked for a stop how it went, and let them go."""
        for connection, client in list(self._clients.items()):
            if client.asked == STOP:
                _send(connection, line)
                self._drop(connection)

    def hide(self) -> None:
        """Remove the socket, which somebody else may need now, but keep the clients."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Remove the socket and leave every client."""
        self.hide()
        for connection in self._clients:
            connection.close()
        self._clients.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._server.accept()
            process, user = peer(connection)
            if user not in (0, os.getuid()) or len(self._clients) >= MAX_CLIENTS:
                connection.close()
                return
            connection.setblocking(False)
            self._clients[connection] = _Client(process)

    def _hear(self, connection: socket.socket) -> None:
        client = self._clients[connection]
        try:
            data = connection.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        client.heard_s = self._clock()
        if client.asked is not None:
            return
        client.line += data
        line, newline, _ = client.line.partition(b"\n")
        if newline:
            self._answer(connection, client, line)
        elif len(client.line) > MAX_LINE_BYTES:
            self._drop(connection)

    def _answer(self, connection: socket.socket, client: _Client, line: bytes) -> None:
        if line == STOP.encode():
            client.asked = STOP
            self.asked_by = self.asked_by or client.process
            _send(connection, f"asked {self._who}")
        elif line == HOLD.encode() and self._dead_man:
            client.asked = HOLD
            _send(connection, f"holding {self._who}")
        else:
            known = "start the run with --dead-man" if line == HOLD.encode() else "unknown request"
            _send(connection, f"refused {known}")
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        client = self._clients.pop(connection)
        connection.close()
        if client.asked == HOLD:
            self.let_go_by = self.let_go_by or client.process


def _send(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # who does not read the answer goes without
        connection.send(f"{line}\n".encode())
