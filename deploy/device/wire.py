"""The conversation with the host: lines of JSON over stdin and stdout, contents between them.

host:   {"verb": "receive", "sha256": "...", "offset": 0}  then the content from there on
device: {"say": "..."} as often as it likes, then {"done": {...}} or {"error": {"kind", "text"}}

A host that is gone does not stop what was begun; one that is silent for long is let go, so that a
pulled cable does not keep the device locked.
"""

from __future__ import annotations

import json
import os
import select

from deploy.device.errors import DeviceError

PROTOCOL = 1
IDLE_S = 120.0
_MOST_LINE_BYTES = 16 << 20


class Wire:
    """The device's end."""

    def __init__(self, source: int, target: int, idle_s: float = IDLE_S) -> None:
        """Take the file descriptors to read requests from and to answer on."""
        self._source = source
        self._target = target
        self._idle_s = idle_s
        self._buffer = b""

    def request(self) -> dict | None:
        """Return the next request; None when the host is gone."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MOST_LINE_BYTES:
                raise DeviceError(f"a request of more than {_MOST_LINE_BYTES} bytes")
            more = self._more(1 << 16)
            if not more:
                return None
            self._buffer += more
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            request = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise DeviceError(f"a request that is not JSON ({error})") from None
        if not isinstance(request, dict):
            raise DeviceError("a request that is not an object")
        return request

    def read(self, n_bytes: int) -> bytes:
        """Return up to `n_bytes` of a content; b"" when the host is gone."""
        if self._buffer:
            chunk, self._buffer = self._buffer[:n_bytes], self._buffer[n_bytes:]
            return chunk
        return self._more(n_bytes)

    def say(self, text: str) -> None:
        """Tell what is going on."""
        self._send({"say": text})

    def done(self, **results: object) -> None:
        """End a request well."""
        self._send({"done": results})

    def failed(self, error: DeviceError) -> None:
        """End a request with a reason."""
        self._send({"error": {"kind": error.kind, "text": str(error)}})

    def _more(self, n_bytes: int) -> bytes:
        readable, _, _ = select.select([self._source], [], [], self._idle_s)
        return os.read(self._source, n_bytes) if readable else b""

    def _send(self, message: dict) -> None:
        content = json.dumps(message).encode("utf-8") + b"\n"
        try:
            while content:
                content = content[os.write(self._target, content) :]
        except OSError:
            pass  # nobody listens any more; the work goes on
