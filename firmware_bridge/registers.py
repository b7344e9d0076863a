"""The STS3215 control table as data: names, addresses, sizes, sign bits and units.

Source: Feetech STS3215 memory table (firmware 3.x), with LeRobot's register names in snake case.
Signed values are sign-magnitude, the sign in the bit that the table names.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

TICKS_PER_TURN = 4096
STS3215_MODEL_NUMBER = 777
# Baud_Rate register values. Sources disagree on the slower ones; SO arms use 0.
BAUD_RATES = (1_000_000, 500_000, 250_000, 128_000, 115_200)


class Access(enum.Enum):
    """Where a register lives."""

    READ_ONLY = "read only"
    EEPROM = "eeprom"
    RAM = "ram"


@dataclass(frozen=True, slots=True)
class Register:
    """One entry of the control table; multi-byte values are little endian."""

    name: str
    address: int
    size: int
    access: Access
    unit: str = ""
    sign_bit: int | None = None

    def encode(self, value: int) -> bytes:
        """Return the bytes of `value`. Raises ValueError when the register cannot hold it."""
        if self.sign_bit is not None:
            return sign_magnitude_from_int(value, self.sign_bit, self.name).to_bytes(
                self.size, "little"
            )
        limit = (1 << 8 * self.size) - 1
        if not 0 <= value <= limit:
            raise ValueError(f"{self.name}: {value} is outside 0..{limit}")
        return int(value).to_bytes(self.size, "little")

    def decode(self, data: bytes) -> int:
        """Return the value held by `data`, `size` bytes."""
        raw = int.from_bytes(data[: self.size], "little")
        return raw if self.sign_bit is None else int_from_sign_magnitude(raw, self.sign_bit)


def sign_magnitude_from_int(value: int, sign_bit: int, name: str = "value") -> int:
    """Encode `value` with its sign in bit `sign_bit`. Raises ValueError when it does not fit."""
    limit = (1 << sign_bit) - 1
    if abs(value) > limit:
        raise ValueError(f"{name}: {value} is outside -{limit}..{limit}")
    return abs(value) | (1 << sign_bit if value < 0 else 0)


def int_from_sign_magnitude(raw: int, sign_bit: int) -> int:
    """Decode a value whose sign is bit `sign_bit`; bits above it are ignored."""
    magnitude = raw & ((1 << sign_bit) - 1)
    return -magnitude if raw >> sign_bit & 1 else magnitude


_RO, _EE, _RAM = Access.READ_ONLY, Access.EEPROM, Access.RAM

FIRMWARE_MAJOR_VERSION = Register("firmware_major_version", 0, 1, _RO)
FIRMWARE_MINOR_VERSION = Register("firmware_minor_version", 1, 1, _RO)
MODEL_NUMBER = Register("model_number", 3, 2, _RO)

ID = Register("id", 5, 1, _EE)
BAUD_RATE = Register("baud_rate", 6, 1, _EE, "index")
RETURN_DELAY_TIME = Register("return_delay_time", 7, 1, _EE, "2 us")
RESPONSE_STATUS_LEVEL = Register("response_status_level", 8, 1, _EE)
MIN_POSITION_LIMIT = Register("min_position_limit", 9, 2, _EE, "tick")
MAX_POSITION_LIMIT = Register("max_position_limit", 11, 2, _EE, "tick")
MAX_TEMPERATURE_LIMIT = Register("max_temperature_limit", 13, 1, _EE, "C")
MAX_VOLTAGE_LIMIT = Register("max_voltage_limit", 14, 1, _EE, "0.1 V")
MIN_VOLTAGE_LIMIT = Register("min_voltage_limit", 15, 1, _EE, "0.1 V")
MAX_TORQUE_LIMIT = Register("max_torque_limit", 16, 2, _EE, "0.1 %")
PHASE = Register("phase", 18, 1, _EE, "bits")
UNLOADING_CONDITION = Register("unloading_condition", 19, 1, _EE, "status bits")
LED_ALARM_CONDITION = Register("led_alarm_condition", 20, 1, _EE, "status bits")
P_COEFFICIENT = Register("p_coefficient", 21, 1, _EE)
D_COEFFICIENT = Register("d_coefficient", 22, 1, _EE)
I_COEFFICIENT = Register("i_coefficient", 23, 1, _EE)
# LeRobot reads 24 as two bytes; the vendor's table has the integral limit at 25.
MINIMUM_STARTUP_FORCE = Register("minimum_startup_force", 24, 2, _EE, "0.1 %")
CW_DEAD_ZONE = Register("cw_dead_zone", 26, 1, _EE, "tick")
CCW_DEAD_ZONE = Register("ccw_dead_zone", 27, 1, _EE, "tick")
PROTECTION_CURRENT = Register("protection_current", 28, 2, _EE, "6.5 mA")
ANGULAR_RESOLUTION = Register("angular_resolution", 30, 1, _EE)
HOMING_OFFSET = Register("homing_offset", 31, 2, _EE, "tick", 11)
OPERATING_MODE = Register("operating_mode", 33, 1, _EE)
PROTECTIVE_TORQUE = Register("protective_torque", 34, 1, _EE, "1 %")
PROTECTION_TIME = Register("protection_time", 35, 1, _EE, "10 ms")
OVERLOAD_TORQUE = Register("overload_torque", 36, 1, _EE, "1 %")
VELOCITY_P_COEFFICIENT = Register("velocity_p_coefficient", 37, 1, _EE)
OVER_CURRENT_PROTECTION_TIME = Register("over_current_protection_time", 38, 1, _EE, "10 ms")
VELOCITY_I_COEFFICIENT = Register("velocity_i_coefficient", 39, 1, _EE)

TORQUE_ENABLE = Register("torque_enable", 40, 1, _RAM)
ACCELERATION = Register("acceleration", 41, 1, _RAM, "100 tick/s2")
GOAL_POSITION = Register("goal_position", 42, 2, _RAM, "tick", 15)
GOAL_TIME = Register("goal_time", 44, 2, _RAM)
GOAL_VELOCITY = Register("goal_velocity", 46, 2, _RAM, "tick/s", 15)
TORQUE_LIMIT = Register("torque_limit", 48, 2, _RAM, "0.1 %")
LOCK = Register("lock", 55, 1, _RAM)

PRESENT_POSITION = Register("present_position", 56, 2, _RO, "tick", 15)
PRESENT_VELOCITY = Register("present_velocity", 58, 2, _RO, "tick/s", 15)
PRESENT_LOAD = Register("present_load", 60, 2, _RO, "0.1 % duty", 10)
PRESENT_VOLTAGE = Register("present_voltage", 62, 1, _RO, "0.1 V")
PRESENT_TEMPERATURE = Register("present_temperature", 63, 1, _RO, "C")
REG_WRITE_FLAG = Register("reg_write_flag", 64, 1, _RO)
STATUS = Register("status", 65, 1, _RO, "status bits")
MOVING = Register("moving", 66, 1, _RO)
TARGET_POSITION = Register("target_position", 67, 2, _RO, "tick")
PRESENT_CURRENT = Register("present_current", 69, 2, _RO, "6.5 mA", 15)
GOAL_POSITION_2 = Register("goal_position_2", 71, 2, _RO, "tick")

MOVING_VELOCITY_THRESHOLD = Register("moving_velocity_threshold", 80, 1, _RAM)
MAXIMUM_VELOCITY_LIMIT = Register("maximum_velocity_limit", 84, 1, _RAM, "0.732 rpm")
MAXIMUM_ACCELERATION = Register("maximum_acceleration", 85, 1, _RAM, "100 tick/s2")
ACCELERATION_MULTIPLIER = Register("acceleration_multiplier", 86, 1, _RAM)

CONTROL_TABLE: tuple[Register, ...] = tuple(
    sorted(
        (entry for entry in list(globals().values()) if isinstance(entry, Register)),
        key=lambda entry: entry.address,
    )
)

TABLE_END = CONTROL_TABLE[-1].address + CONTROL_TABLE[-1].size
EEPROM_START, EEPROM_END = ID.address, VELOCITY_I_COEFFICIENT.address + 1
# One read of these bytes gives position, velocity, load, voltage, temperature, status and current.
FEEDBACK_ADDRESS = PRESENT_POSITION.address
FEEDBACK_BYTES = PRESENT_CURRENT.address + PRESENT_CURRENT.size - PRESENT_POSITION.address
