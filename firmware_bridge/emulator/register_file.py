"""The memory of an emulated servo: EEPROM and RAM behind one row of addresses, and the lock."""

from __future__ import annotations

from collections.abc import Mapping

from firmware_bridge import registers
from firmware_bridge.packets import MAX_SERVO_ID
from firmware_bridge.registers import Access, Register

MEMORY_BYTES = 96
# What RAM registers hold after power-up, where it is not 0 or a copy of an EEPROM register.
_RAM_DEFAULTS = {
    registers.LOCK: 1,
    registers.MAXIMUM_VELOCITY_LIMIT: 68,
    registers.MAXIMUM_ACCELERATION: 254,
}
_READ_ONLY_ADDRESSES = frozenset(
    address
    for entry in registers.CONTROL_TABLE
    if entry.access is Access.READ_ONLY
    for address in range(entry.address, entry.address + entry.size)
)


class RegisterFile:
    """The registers of one servo; `eeprom` is what it was made with."""

    def __init__(self, eeprom: Mapping[Register, int]) -> None:
        self._kept = bytearray(registers.EEPROM_END)
        for register, value in eeprom.items():
            self._kept[_span(register)] = register.encode(value)
        self._backup: bytes | None = None
        self.power_up()

    def value(self, register: Register) -> int:
        """Return the present value of a register."""
        return register.decode(bytes(self._memory[_span(register)]))

    def byte(self, register: Register) -> int:
        """Return the first byte of a register, unsigned."""
        return self._memory[register.address]

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes from `address`; beyond the table they are 0."""
        data = bytes(self._memory[address : address + length])
        return data + bytes(length - len(data))

    def set(self, register: Register, value: int) -> None:
        """Set a register as the firmware does: until power is lost."""
        self._memory[_span(register)] = register.encode(value)

    def keep(self, register: Register) -> None:
        """Keep an EEPROM register as it is now, unless the lock is on."""
        if not self.value(registers.LOCK):
            self._kept[_span(register)] = self._memory[_span(register)]

    def write(self, address: int, data: bytes, *, locked_drops: bool) -> set[int]:
        """Write what a host sent and return the addresses that changed hands.

        Read-only bytes and impossible ids are passed over. With the lock on an EEPROM byte acts
        until power is lost, or is dropped; with the lock off it is kept.
        """
        locked = bool(self.value(registers.LOCK))
        touched = set()
        for position, byte in enumerate(data, start=address):
            if position >= MEMORY_BYTES or position in _READ_ONLY_ADDRESSES:
                continue
            if position == registers.ID.address and byte > MAX_SERVO_ID:
                continue
            eeprom = position < registers.EEPROM_END
            if eeprom and locked and locked_drops:
                continue
            touched.add(position)
            self._memory[position] = byte
            if eeprom and not locked:
                self._kept[position] = byte
        return touched

    def store(self, values: Mapping[Register, int]) -> set[int]:
        """Set registers as a factory does, kept whatever the lock says; return the addresses."""
        touched = set()
        for register, value in values.items():
            span = _span(register)
            touched.update(range(span.start, span.stop))
            self._memory[span] = register.encode(value)
            if register.address < registers.EEPROM_END:
                self._kept[span] = self._memory[span]
        return touched

    def power_up(self) -> None:
        """Start with what was kept and the defaults of the rest."""
        self._memory = bytearray(MEMORY_BYTES)
        self._memory[: registers.EEPROM_END] = self._kept
        for register, value in _RAM_DEFAULTS.items():
            self.set(register, value)
        self.set(registers.TORQUE_LIMIT, self.value(registers.MAX_TORQUE_LIMIT))

    def back_up(self) -> None:
        """Put a copy of the EEPROM aside."""
        self._backup = bytes(self._kept)

    def backed_up(self) -> dict[Register, int] | None:
        """Return what was put aside, without the id; None when nothing was."""
        if self._backup is None:
            return None
        return {
            register: register.decode(self._backup[_span(register)])
            for register in registers.CONTROL_TABLE
            if register.access is Access.EEPROM and register is not registers.ID
        }


def _span(register: Register) -> slice:
    return slice(register.address, register.address + register.size)
