"""A row of emulated servos on a pseudo-terminal, in a process of its own, with byte timing.

    python -m benchmarks.bus_emulator LINK SERVOS

Serves ids 1 to SERVOS at LINK until its standard input is closed, which also happens when whoever
started it is gone.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import BusBenchError
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Faults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.emulator.pty_server import serve

ROOT = Path(__file__).parents[1]
END_TIMEOUT_S = 10.0
READY = "ready"


@contextmanager
def emulated_bus(link: Path, servos: int) -> Iterator[str]:
    """Run the emulator at `link` and give the port; BusBenchError when it does not start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bus_emulator", str(link), str(servos)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the program that measures
    )
    try:
        if process.stdout.readline().strip() != READY:
            raise BusBenchError(f"the emulated servos at {link} did not start; try again")
        yield str(link)
    finally:
        process.stdin.close()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def main(argv: list[str]) -> int:
    """Serve until standard input ends."""
    link, servos = Path(argv[0]), int(argv[1])
    bus = EmulatedBus(RotorPlant(servos), faults=Faults(), byte_timing=True)
    stop = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    serve(bus, link, stop, on_ready=lambda _: print(READY, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
