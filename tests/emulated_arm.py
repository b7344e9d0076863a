"""An emulated arm for tests: in memory on a clock of its own, or in a process behind a pty."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware_bridge.arm import Arm
from firmware_bridge.arming import ArmLimits
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Faults
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.emulator.plant import RotorPlant

ROOT = Path(__file__).parents[1]
IDS = (1, 2, 3, 4, 5, 6)
LIMITS = ArmLimits(
    torque_limits_per_mille=(400, 650, 650, 450, 450, 400),
    acceleration_deg_s2=440.0,
    arming_max_temperature_c=50.0,
    arming_max_motion_deg=2.0,
    ramp_s=1.0,
)
START_TIMEOUT_S = 20.0


def memory_bus(
    faults: Faults | None = None, *, plant: RotorPlant | None = None, echo: bool = False, **options
) -> tuple[Bus, MemoryTransport]:
    plant = plant or RotorPlant(6, start_deg=[5, -20, 30, 0, 10, 40])
    transport = MemoryTransport(EmulatedBus(plant, faults=faults, **options))
    return Bus(transport, clock=transport.clock, echo=echo), transport


def memory_arm(
    faults: Faults | None = None, *, plant: RotorPlant | None = None, limits: ArmLimits = LIMITS
) -> tuple[Arm, MemoryTransport]:
    bus, transport = memory_bus(faults, plant=plant)
    arm = Arm(bus, default_calibration(), limits, clock=transport.clock, sleep=transport.sleep)
    return arm, transport


@contextmanager
def emulator_process(link: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "firmware_bridge.cli", "emulate", "--link", str(link)]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith("emulated servos"), "the emulator did not start"
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(START_TIMEOUT_S)
        process.stdout.close()


def wait_until(condition, timeout_s: float = 5.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True
