"""Somebody who calibrates an emulated arm."""

from moved_by_hand import HandPlant
from scripted_console import ScriptedConsole

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibrate_command import Guide
from firmware_bridge.calibration import (
    JOINTS,
    load_calibration,
)
from firmware_bridge.calibration_session import SWEPT_JOINTS, CalibrationSession
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.memory_transport import MemoryTransport

LOW_END = dict(zip(JOINTS, (796, 910, 946, 967, 196, 1934), strict=True))
REGISTERS = (
    registers.HOMING_OFFSET,
    registers.MIN_POSITION_LIMIT,
    registers.MAX_POSITION_LIMIT,
)


class Person:
    """Somebody who does what the guide asks, with mistakes on request."""

    def __init__(self, tmp_path, low=LOW_END, faults=None):
        self.plant = HandPlant(low)
        self.servos = EmulatedBus(self.plant, faults=faults)
        self.transport = MemoryTransport(self.servos)
        self.path = tmp_path / "arm.json"
        self.sweeps = [list(SWEPT_JOINTS)]
        self.reach = 1.0
        self.folded = {"shoulder_lift": 0.05, "elbow_flex": 0.95, "gripper": 0.0}
        self.agrees = "y"
        self.interrupt_at = None
        self._way = None
        self.console = ScriptedConsole([], self._pressed)
        self.console.ask = self._ask
        self.bus = Bus(self.transport, clock=self.transport.clock)
        self.session = CalibrationSession(self.bus)

    def calibrate(self, **options):
        self._guide().calibrate(**options)
        return load_calibration(self.path)

    def apply(self, calibration):
        self._guide().apply(calibration)

    def stored(self):
        """Return offset and limits that the servos hold after their power was off."""
        self.servos.power_cycle()
        return {
            joint: [servo.value(register) for register in REGISTERS]
            for joint, servo in zip(JOINTS, self.servos.servos, strict=True)
        }

    def _guide(self):
        return Guide(
            self.console,
            self.session,
            self.path,
            stamp="20250102-030405",
            sleep=self.transport.sleep,
        )

    def _ask(self, prompt):
        self.console.prompts.append(prompt)
        if self.interrupt_at and self.interrupt_at in prompt:
            raise KeyboardInterrupt
        if "middle of its range" in prompt:
            for joint in JOINTS:
                self.plant.move(joint, 0.5)
        elif "fold the arm" in prompt:
            for joint, share in self.folded.items():
                self.plant.move(joint, share)
        elif "write this" in prompt:
            return self.agrees
        self.transport.sleep(0.01)
        return ""

    def _pressed(self):
        if self.interrupt_at == "sweep":
            raise KeyboardInterrupt
        if self._way is None:
            self._way = self.plant.sweep(self.sweeps.pop(0), self.reach)
        if next(self._way, "end") == "end":
            self._way = None
            return True
        return False
