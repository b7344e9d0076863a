"""A doctor with an emulated patient."""

import os

from emulated_arm import writes

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.doctor import Doctor
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.findings import Level

# A terminal that nobody serves, in the place of a port.
PORT = os.ttyname(os.openpty()[1])
EVERYBODY = (
    "servos 1 (shoulder_pan), 2 (shoulder_lift), 3 (elbow_flex), 4 (wrist_flex), 5 (wrist_roll), "
    "6 (gripper)"
)
NAMES = dict(enumerate(default_calibration(), start=1))


class Practice:
    """A doctor with an emulated patient."""

    def __init__(
        self, faults=None, ids=None, calibration=True, echo=False, reads=4, start_deg=None
    ):
        self.servos = EmulatedBus(RotorPlant(6, start_deg=start_deg), ids, faults)
        self.transports = []
        self.echo = echo
        if calibration is True:
            calibration = default_calibration()
        self.doctor = Doctor(self.open_at, calibration=calibration, echo=echo, reads=reads)

    def open_at(self, baud_rate):
        transport = MemoryTransport(self.servos, baud_rate)
        self.transports.append(transport)
        return Bus(transport, clock=transport.clock, echo=self.echo)

    def set(self, servo_id, register, value):
        """Set a register as another program might have left it."""
        servo = next(servo for servo in self.servos.servos if servo.servo_id == servo_id)
        if register.access is not registers.Access.RAM:
            servo.restore_eeprom({register: value})
        else:
            servo.write(register.address, register.encode(value))
        self.servos.advance(0.002)

    def value(self, servo_id, register):
        return self.servos.servos[servo_id - 1].value(register)

    def examine(self):
        return list(self.doctor.examine(PORT))

    def lines(self):
        return [finding.line for finding in self.examine() if finding.level is not Level.OK]

    def mend(self, agreed=lambda what: True):
        said = []
        made = self.doctor.mend(self.examine(), agreed, said.append)
        return made, said

    def written(self):
        return [write for transport in self.transports for write in writes(transport)]
