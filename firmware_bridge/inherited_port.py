"""A serial port that another process opened: used through its descriptor, opened anew if lost.

The descriptor shares the lock on the port with the process that opened it, so the port stays taken
when that process dies.
"""

from __future__ import annotations

from firmware_bridge.errors import PortError
from firmware_bridge.transport import DescriptorTransport, WayBack


class InheritedPort:
    """A `Transport` on a descriptor, which it owns; `path` is where to open a port that was lost.

    As long as the process that opened the port lives and holds it, opening it anew is refused.
    """

    def __init__(self, descriptor: int, path: str, baud_rate: int) -> None:
        self.name = path
        self.baud_rate = baud_rate
        self._port = DescriptorTransport(descriptor, path, baud_rate)
        self._way_back = WayBack(path)

    def replace(self, descriptor: int) -> None:
        """Use another descriptor: the other process has opened the port anew."""
        self._port.close()
        self._port = DescriptorTransport(descriptor, self.name, self.baud_rate)

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises PortError when the port is gone."""
        self._port.write(data)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return 1..max_bytes bytes as soon as some are there, none after `timeout_s`."""
        return self._port.read(max_bytes, timeout_s)

    def flush_input(self) -> None:
        """Drop bytes that have arrived and were not read."""
        self._port.flush_input()

    def reopen(self) -> bool:
        """Try once to open a port that was lost; return whether it is open."""
        if self._port.reopen():
            return True
        try:
            descriptor = self._way_back.open(self.baud_rate)
        except PortError:
            return False
        self._port = DescriptorTransport(descriptor, self.name, self.baud_rate)
        return True

    def close(self) -> None:
        """Give the descriptor back, so that the system can give the port's name away again."""
        self._port.close()
