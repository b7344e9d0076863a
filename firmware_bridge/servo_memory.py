"""What the servos keep without power: read before anything is written, and put back if need be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import BusError
from firmware_bridge.registers import CONTROL_TABLE, Register
from firmware_bridge.servo_state import read_eeprom

RESTORE_TRIES = 3


class ServoMemory:
    """The EEPROM of some servos as it was, and what has been written to it since."""

    def __init__(self, bus: Bus, servo_ids: Sequence[int]) -> None:
        self._bus = bus
        self._before = {servo_id: read_eeprom(bus, servo_id) for servo_id in servo_ids}
        self._written: list[tuple[int, Register]] = []

    def before(self, servo_id: int, register: Register) -> int:
        """Return what a register held at first."""
        return register.decode(self._before[servo_id][register.address :])

    def write(self, servo_id: int, register: Register, value: int) -> bool:
        """Store a value and read it back; return whether it was another. Raises BusError."""
        self._written.append((servo_id, register))
        return self._bus.write_eeprom(servo_id, register, value)

    def restore(self) -> list[str]:
        """Put back what was written, and lock it; return a line for each that could not be."""
        failures = []
        # A write that was interrupted leaves the memory unlocked, with the old value or the new.
        for servo_id in {servo_id for servo_id, _ in self._written}:
            with contextlib.suppress(BusError):
                self._bus.write(servo_id, registers.LOCK, 1)
        for servo_id, register in reversed(self._written):
            value = self.before(servo_id, register)
            error = self._put_back(servo_id, register, value)
            if error:
                failures.append(f"servo {servo_id}: {register.name} should be {value}: {error}")
        self._written.clear()
        return failures

    def save(self, path: Path) -> None:
        """Write what the servos held at first as JSON. Raises OSError."""
        servos = {
            str(servo_id): {
                "bytes": data.hex(),
                "registers": {
                    register.name: register.decode(data[register.address :])
                    for register in CONTROL_TABLE
                    if register.address + register.size <= registers.EEPROM_END
                },
            }
            for servo_id, data in self._before.items()
        }
        path.write_text(json.dumps(servos, indent=1), encoding="utf-8")

    def _put_back(self, servo_id: int, register: Register, value: int) -> BusError | None:
        failure = None
        for _ in range(RESTORE_TRIES):
            try:
                self._bus.write_eeprom(servo_id, register, value)
            except BusError as error:
                failure = error
            else:
                return None
        return failure
