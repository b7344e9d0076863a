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

from firmware_bridge import packets, registers
from firmware_bridge.arm import Arm
from firmware_bridge.arming import ArmLimits
from firmware_bridge.bus import Bus
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.packets import FrameParser, Instruction

ROOT = Path(__file__).parents[1]
IDS = (1, 2, 3, 4, 5, 6)
LIMITS = ArmLimits(
    torque_limits_per_mille=(400, 650, 650, 450, 450, 400),
    acceleration_deg_s2=440.0,
    arming_max_temperature_c=50.0,
    arming_max_motion_deg=2.0,
    max_position_gain=16,
    ramp_s=1.0,
)
START_TIMEOUT_S = 20.0
START_DEG = (5, -20, 30, 0, 10, 40)
TORQUE_LIMIT = registers.TORQUE_LIMIT.address
GOAL = registers.GOAL_POSITION.address
TORQUE_ENABLE = registers.TORQUE_ENABLE.address
FEEDBACK = packets.sync_read(registers.FEEDBACK_ADDRESS, registers.FEEDBACK_BYTES, IDS)


def bus_of(count: int = 6, faults: Faults | None = None, **options) -> EmulatedBus:
    """Return an emulated bus without a driver: bytes in, bytes out."""
    return EmulatedBus(RotorPlant(count), faults=faults, **options)


def answer(bus: EmulatedBus, servo_id: int, register: registers.Register) -> int | None:
    """Return what a servo says of a register, None when it says nothing."""
    frames = FrameParser().feed(bus.handle(packets.read(servo_id, register.address, register.size)))
    return register.decode(frames[0].params) if frames else None


def goal_frame(servo_id: int, ticks: int) -> bytes:
    return packets.write(servo_id, GOAL, registers.GOAL_POSITION.encode(ticks))


def late(ids, delay_ms: float, count: int = 1, after: int = 0) -> Faults:
    return Faults(
        replies=(ReplyFault("late", frozenset(ids), delay_ms=delay_ms, count=count, after=after),)
    )


def memory_bus(
    faults: Faults | None = None, *, plant: RotorPlant | None = None, echo: bool = False, **options
) -> tuple[Bus, MemoryTransport]:
    plant = plant or RotorPlant(6, start_deg=START_DEG)
    transport = MemoryTransport(EmulatedBus(plant, faults=faults, **options))
    return Bus(transport, clock=transport.clock, echo=echo), transport


def one_servo(
    register_values: dict[str, int] | None = None, switches: dict | None = None, **plant_options
) -> tuple[Bus, MemoryTransport, RotorPlant]:
    """Return a driver, its transport and the plant of one servo without limits, set as asked."""
    values = {"min_position_limit": 0, "max_position_limit": 4095, **(register_values or {})}
    faults = Faults(servos={1: ServoFaults(registers=values)}, **(switches or {}))
    plant = RotorPlant(1, **plant_options)
    bus, transport = memory_bus(faults, plant=plant)
    return bus, transport, plant


def memory_arm(
    faults: Faults | None = None, *, plant: RotorPlant | None = None, limits: ArmLimits = LIMITS
) -> tuple[Arm, MemoryTransport]:
    bus, transport = memory_bus(faults, plant=plant)
    arm = Arm(bus, default_calibration(), limits, clock=transport.clock, sleep=transport.sleep)
    return arm, transport


def writes(transport: MemoryTransport) -> list[tuple[int, int, int]]:
    """Return (address, id, value) of every register write, in the order sent."""
    found = []
    for frame in FrameParser().feed(b"".join(transport.sent)):
        params = frame.params
        if frame.code == Instruction.WRITE:
            found.append((params[0], frame.servo_id, int.from_bytes(params[1:], "little")))
        elif frame.code == Instruction.SYNC_WRITE:
            address, length = params[0], params[1]
            for start in range(2, len(params), length + 1):
                value = int.from_bytes(params[start + 1 : start + 1 + length], "little")
                found.append((address, params[start], value))
    return found


def requests(transport: MemoryTransport) -> list[tuple[str, int, int | None]]:
    """Return (instruction, id, address) of every frame, in the order sent."""
    return [
        (
            Instruction(frame.code).name.lower(),
            frame.servo_id,
            frame.params[0] if frame.params else None,
        )
        for frame in FrameParser().feed(b"".join(transport.sent))
    ]


def torque_enables(transport: MemoryTransport) -> list[int]:
    return [servo.value(registers.TORQUE_ENABLE) for servo in transport.bus.servos]


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
