"""Where a program that drives an arm can be asked to stop: a Unix socket per serial port.

The watchdog of the program listens. A client sends one line:

    stop      the arm is to be let down; answered at once by `asked PID PROGRAM`, and when it is
              done by `limp IDS` or `limp IDS unconfirmed IDS`
    hold      this client is a dead man's switch; answered by `holding PID PROGRAM`. From then on it
              sends a byte at least every HOLD_SILENCE_S; the arm stops when it does not

or is told `refused REASON`. The socket lies in a folder of the user's own, mode 0700, and follows
from the port's real path: whoever knows the port finds it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path

STOP, HOLD = "stop", "hold"
HOLD_SILENCE_S = 0.7
_SHARED_FOLDER = Path("/tmp")
_NAME = "molmoact-arm"
_BACKLOG = 8
_CREDENTIALS = struct.Struct("3i")  # Linux `struct ucred`: process, user, group


class StopSocketError(Exception):
    """There is no safe place for the socket; the text says what is in the way."""


def listen(port: str) -> tuple[socket.socket, Path]:
    """Listen for `port` and return the socket and its path. Raises StopSocketError."""
    problems = []
    for folder in _own_folders():
        try:
            _check_folder(folder, os.getuid(), make=True)
            return _bound(folder / _file_name(port))
        except (OSError, StopSocketError) as error:
            problems.append(str(error))
    raise StopSocketError("; ".join(problems))


def connect(port: str, timeout_s: float) -> socket.socket | None:
    """Connect to whoever listens for `port`; None when nobody does."""
    for path in _candidates(port):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            continue
        return client
    return None


def remove_left_over(port: str) -> None:
    """Remove what a watchdog of `port` that was killed left behind."""
    for folder in _own_folders():
        path = folder / _file_name(port)
        if path.exists():
            with contextlib.suppress(OSError, StopSocketError):
                _remove_dead(path)


def peer(client: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end of a Unix socket."""
    size = _CREDENTIALS.size
    data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    process, user, _ = _CREDENTIALS.unpack(data)
    return process, user


def _file_name(port: str) -> str:
    return os.path.realpath(port).strip("/").replace("/", "_") + ".stop"


def _own_folders() -> list[Path]:
    # The first outlives a log-out, which takes the second away with all that is in it.
    folders = [_SHARED_FOLDER / f"{_NAME}-{os.getuid()}"]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return [*folders, Path(runtime, _NAME)] if runtime else folders


def _candidates(port: str) -> list[Path]:
    """Return the sockets that may be trusted to be the port's: one's own; for root, everybody's."""
    owners = dict.fromkeys(_own_folders(), os.getuid())
    if os.getuid() == 0:
        for folder in _SHARED_FOLDER.glob(f"{_NAME}-*"):
            with contextlib.suppress(ValueError):
                owners[folder] = int(folder.name.removeprefix(f"{_NAME}-"))
    found = []
    for folder, owner in owners.items():
        with contextlib.suppress(OSError, StopSocketError):
            _check_folder(folder, owner, make=False)
            found.append(folder / _file_name(port))
    return found


def _check_folder(folder: Path, owner: int, *, make: bool) -> None:
    """Raise StopSocketError unless `folder` is a real folder that only `owner` can write to."""
    if make:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode):
        raise StopSocketError(f"{folder} is not a folder; remove it")
    if state.st_uid != owner:
        raise StopSocketError(
            f"{folder} belongs to user {state.st_uid}, not to user {owner}; remove it"
        )
    if state.st_mode & 0o077:
        raise StopSocketError(f"{folder} is open to other users; run 'chmod 700 {folder}'")


def _bound(path: Path) -> tuple[socket.socket, Path]:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            _remove_dead(path)
        server.bind(str(path))
        path.chmod(0o600)
        server.listen(_BACKLOG)
    except BaseException:
        server.close()
        raise
    return server, path


def _remove_dead(path: Path) -> None:
    """Remove a socket at which nobody listens. Raises StopSocketError when somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its queue is full: somebody is there
    raise StopSocketError(f"{path}: another watchdog listens there")
