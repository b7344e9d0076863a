"""What pyserial is to the vendor SDK and LeRobot, wired straight to an emulated bus."""

from __future__ import annotations

import pytest
from emulated_arm import START_DEG

from firmware_bridge.calibration import JOINTS
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.plant import RotorPlant


class RecordingPort:
    """Keeps every frame that was written; replies are there at once."""

    def __init__(self, bus: EmulatedBus | None = None) -> None:
        self.sent: list[bytes] = []
        self.is_open = True
        self.bus = bus or EmulatedBus(RotorPlant(6, start_deg=START_DEG))
        self._received = b""

    def write(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        self._received += self.bus.handle(bytes(data), 1_000_000)
        return len(data)

    def read(self, length: int) -> bytes:
        data, self._received = self._received[:length], self._received[length:]
        return data

    def wait(self, duration_s: float) -> None:
        self._received += self.bus.advance(duration_s)

    def flush(self) -> None:
        pass

    def reset_input_buffer(self) -> None:
        self._received = b""


def recorded(port_handler, bus: EmulatedBus | None = None) -> list[bytes]:
    """Put a recording port under an SDK port handler and return the list of frames sent."""
    port_handler.ser = RecordingPort(bus)
    port_handler.is_open = True
    port_handler.tx_time_per_byte = 0.01
    return port_handler.ser.sent


def lerobot_bus(port: str):
    """Give LeRobot's bus for an SO-101 follower, not connected; skip without LeRobot."""
    feetech = pytest.importorskip("lerobot.motors.feetech")
    lerobot_motors = pytest.importorskip("lerobot.motors")
    modes = lerobot_motors.MotorNormMode
    motors = {
        joint: lerobot_motors.Motor(
            servo_id, "sts3215", modes.RANGE_0_100 if joint == "gripper" else modes.DEGREES
        )
        for servo_id, joint in enumerate(JOINTS, start=1)
    }
    return feetech.FeetechMotorsBus(port, motors)
