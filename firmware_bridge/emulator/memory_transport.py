"""A transport straight into an emulated bus, on a clock that moves only when somebody waits.

For tests and for measuring the driver without a wire: nothing sleeps, and every frame that was sent
is kept in `sent`. When the bus is unplugged the port is lost until it is opened again.
"""

from __future__ import annotations

from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.errors import PortError
from firmware_bridge.transport import DEFAULT_BAUD_RATE

WAIT_STEP_S = 0.001


class MemoryTransport:
    """Moves bytes to and from `bus`; `clock` and `sleep` belong to the same imagined time."""

    def __init__(self, bus: EmulatedBus, baud_rate: int = DEFAULT_BAUD_RATE) -> None:
        self.name = "memory"
        self.baud_rate = baud_rate
        self.bus = bus
        self.sent: list[bytes] = []
        self.closed = False
        self._received = bytearray()
        self._plug = bus.plugs

    def clock(self) -> float:
        """Return the imagined time in seconds."""
        return self.bus.now_s

    def sleep(self, duration_s: float) -> None:
        """Let imagined time pass."""
        self._received += self.bus.advance(duration_s)

    def write(self, data: bytes) -> None:
        """Hand a frame to the servos. Raises PortError when the port is lost."""
        self._check()
        self.sent.append(bytes(data))
        self._received += self.bus.handle(data, self.baud_rate)

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Return what has arrived, waiting up to `timeout_s` of imagined time.

        Raises PortError when the port is lost.
        """
        deadline_s = self.bus.now_s + timeout_s
        self._check()
        while not self._received and (left_s := deadline_s - self.bus.now_s) > 1e-9:
            self.sleep(min(WAIT_STEP_S, left_s))
            self._check()
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    def flush_input(self) -> None:
        """Drop what has arrived. Raises PortError when the port is lost."""
        self._check()
        self._received.clear()

    def reopen(self) -> bool:
        """Open a lost port if it is there again; return whether it is open."""
        if self._plug != self.bus.plugs and not self.bus.unplugged:
            self._plug = self.bus.plugs
            self._received.clear()
        return self._plug == self.bus.plugs

    def close(self) -> None:
        """Remember that the port was given back."""
        self.closed = True

    def _check(self) -> None:
        if self._plug != self.bus.plugs:
            raise PortError(f"{self.name}: port lost (unplugged); check the USB cable and power")
