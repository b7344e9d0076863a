"""A session with a device's agent, over OpenSSH or in a process of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from deploy.device.durable import CHUNK_BYTES
from deploy.device.errors import BusyError
from deploy.device.layout import DEFAULT_ROOT
from deploy.device.wire import PROTOCOL
from deploy.errors import ConnectionLostError, DeviceBusyError, DeviceRefusedError, FlashError

Say = Callable[[str], None]
# An agent that is root's is started by sudo, as provisioning allows; one's own needs no rights.
_START = (
    'a={agent}; [ -r "$a" ] || {{ echo "no agent at $a; provision it first" >&2; exit 3; }}; '
    'if [ "$(id -u)" = 0 ] || [ -O "$a" ]; then exec /usr/bin/python3 -I "$a" session; '
    'else exec sudo -n /usr/bin/python3 -I "$a" session; fi'
)


def ssh_command(
    host: str, port: int | None = None, identity: Path | None = None, options: tuple[str, ...] = ()
) -> list[str]:
    """Return the words that reach `host`; they ask nothing and notice a dead peer in 45 s."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    command += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]
    for option in options:
        command += ["-o", option]
    if port is not None:
        command += ["-p", str(port)]
    if identity is not None:
        command += ["-i", str(identity), "-o", "IdentitiesOnly=yes"]
    return [*command, "--", host]


def session_command(ssh: list[str], root: str = DEFAULT_ROOT) -> list[str]:
    """Return the words that start the agent of the device behind `ssh`."""
    return [*ssh, _START.format(agent=shlex.quote(f"{root}/agent.pyz"))]


class AgentLink:
    """One session; use as a context manager."""

    def __init__(self, command: list[str], say: Say) -> None:
        """Start the agent with `command`; FlashError when it does not answer."""
        self._say = say
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the link)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except (OSError, ValueError) as error:
            self._errors.close()
            raise FlashError(f"cannot run {command[0]}: {error}") from error
        self.sent_bytes = 0  # of contents
        hello = self._result()
        if hello.get("protocol") != PROTOCOL:
            self.close()
            raise FlashError(
                f"the device's agent speaks protocol {hello.get('protocol')}, this program "
                f"{PROTOCOL}; provision the device again"
            )

    def __enter__(self) -> AgentLink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, verb: str, **arguments: object) -> dict[str, Any]:
        """Ask and wait for the answer; DeviceRefusedError, ConnectionLostError."""
        self._send({"verb": verb, **arguments})
        return self._result()

    def send_object(self, sha256: str, offset: int, source: BinaryIO) -> None:
        """Send the rest of a content, from `offset` on."""
        source.seek(offset)
        self._send({"verb": "receive", "sha256": sha256, "offset": offset})
        try:
            while chunk := source.read(CHUNK_BYTES):
                self._process.stdin.write(chunk)
                self.sent_bytes += len(chunk)
            self._process.stdin.flush()
        except OSError:
            pass  # why the device stopped listening is in its answer
        self._result()

    def cut(self) -> None:
        """Tear the connection, as a pulled cable does once it is noticed."""
        self._process.kill()

    def close(self) -> None:
        """End the session; the device does what it has begun."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _send(self, request: dict) -> None:
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ConnectionLostError(self._why()) from error

    def _result(self) -> dict[str, Any]:
        while True:
            line = self._process.stdout.readline()
            if not line.endswith(b"\n"):
                raise ConnectionLostError(self._why())
            try:
                answer = json.loads(line)
            except ValueError:
                continue  # what a login shell prints
            if not isinstance(answer, dict):
                continue
            if "say" in answer:
                self._say(f"  device: {answer['say']}")
            elif "error" in answer:
                busy = answer["error"].get("kind") == BusyError.kind
                raise (DeviceBusyError if busy else DeviceRefusedError)(answer["error"]["text"])
            elif "done" in answer:
                return answer["done"]

    def _why(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        said = lines[-1] if lines else f"exit code {self._process.poll()}"
        return f"no connection with the device's agent: {said}"
