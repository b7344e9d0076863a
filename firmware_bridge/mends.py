"""What a check-up puts right by itself, in orders that move nothing.

A goal written to an STS3215 switches its torque on. So a stale goal is cleared as a soft stop ends:
torque limit 0, goal = present position, torque off, and only then the limit as it was.
"""

from __future__ import annotations

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import BusError
from firmware_bridge.findings import Mend
from firmware_bridge.registers import Access, Register


def set_register(servo_id: int, register: Register, old: int, new: int) -> Mend:
    """Return a mend that writes one register and reads it back."""

    def apply(bus: Bus) -> None:
        if register.access is Access.EEPROM:
            bus.write_eeprom(servo_id, register, new)
            return
        bus.write(servo_id, register, new)
        _demand(bus, servo_id, register, new)

    return Mend(servo_id, f"{register.name} {old} -> {new}", apply)


def answer_writes(servo_id: int) -> Mend:
    """Return a mend that lets a servo acknowledge writes again."""
    level = registers.RESPONSE_STATUS_LEVEL

    def apply(bus: Bus) -> None:
        # Sync writes are not acknowledged by anybody, which suits a servo that does not.
        bus.sync_write(registers.LOCK, {servo_id: 0})
        bus.sync_write(level, {servo_id: 1})
        bus.sync_write(registers.LOCK, {servo_id: 1})
        _demand(bus, servo_id, level, 1)
        _demand(bus, servo_id, registers.LOCK, 1)

    return Mend(servo_id, f"{level.name} 0 -> 1", apply)


def forget_goal(servo_id: int, goal: int, present: int) -> Mend:
    """Return a mend that makes the goal of a limp servo its present position."""

    def apply(bus: Bus) -> None:
        limit = bus.read(servo_id, registers.TORQUE_LIMIT)
        bus.write(servo_id, registers.TORQUE_LIMIT, 0)
        _demand(bus, servo_id, registers.TORQUE_LIMIT, 0)
        try:
            position = bus.read(servo_id, registers.PRESENT_POSITION)
            bus.write(servo_id, registers.GOAL_POSITION, position)
        finally:
            bus.write(servo_id, registers.TORQUE_ENABLE, 0)
        _demand(bus, servo_id, registers.TORQUE_ENABLE, 0)
        bus.write(servo_id, registers.TORQUE_LIMIT, limit)

    return Mend(servo_id, f"goal_position {goal} -> {present}, torque stays off", apply)


def _demand(bus: Bus, servo_id: int, register: Register, value: int) -> None:
    stored = bus.read(servo_id, register)
    if stored != value:
        raise BusError(
            f"servo {servo_id}: {register.name} reads {stored} after writing {value}; try again"
        )
