"""Everything a servo's registers say at one time, read in two requests."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.registers import STS3215_MODEL_NUMBER, Register

MODEL_NAMES = {STS3215_MODEL_NUMBER: "sts3215", 2825: "sts3250", 11272: "sm8512bl", 1284: "scs0009"}
# The STS3215 comes as a 7.4 V and a 12 V build, told apart by the voltage limit it was made with.
BUILD_7V4_MAX_LIMIT_V = 9.0
_LIVE_START = registers.EEPROM_END
_LIVE_BYTES = registers.PRESENT_CURRENT.address + registers.PRESENT_CURRENT.size - _LIVE_START


@dataclass(frozen=True, slots=True)
class ServoState:
    """Registers 0..70 of one servo; `status` has the fault bits of reply and register."""

    servo_id: int
    status: int
    data: bytes

    def __getitem__(self, register: Register) -> int:
        return register.decode(self.data[register.address :])

    @property
    def model_name(self) -> str:
        """The model's name, or `unknown`."""
        return MODEL_NAMES.get(self[registers.MODEL_NUMBER], "unknown")

    @property
    def firmware(self) -> str:
        """The version as `3.10`."""
        major = self[registers.FIRMWARE_MAJOR_VERSION]
        return f"{major}.{self[registers.FIRMWARE_MINOR_VERSION]}"

    @property
    def build(self) -> str:
        """`7.4 V` or `12 V`, by the servo's own voltage limit."""
        return build_of(self[registers.MAX_VOLTAGE_LIMIT] / 10.0)

    @property
    def supply_v(self) -> float:
        """The voltage that the servo measures."""
        return self[registers.PRESENT_VOLTAGE] / 10.0

    @property
    def temperature_c(self) -> int:
        """The temperature that the servo measures."""
        return self[registers.PRESENT_TEMPERATURE]

    @property
    def torque_on(self) -> bool:
        """Whether the motor may push."""
        return self[registers.TORQUE_ENABLE] != 0


def build_of(max_voltage_limit_v: float) -> str:
    """Return `7.4 V` or `12 V`."""
    return "7.4 V" if max_voltage_limit_v <= BUILD_7V4_MAX_LIMIT_V else "12 V"


def read_state(bus: Bus, servo_id: int) -> ServoState:
    """Read one servo. Raises BusError."""
    kept = read_eeprom(bus, servo_id)
    live = bus.read_bytes(servo_id, _LIVE_START, _LIVE_BYTES)
    status = registers.STATUS.decode(live.data[registers.STATUS.address - _LIVE_START :])
    return ServoState(servo_id, live.error | status, kept + live.data)


def read_eeprom(bus: Bus, servo_id: int) -> bytes:
    """Return registers 0..39 of one servo. Raises BusError."""
    return bus.read_bytes(servo_id, 0, registers.EEPROM_END).data
