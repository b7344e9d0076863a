"""Who is on the bus: servos found by id and baud rate, and what each one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import PortError
from firmware_bridge.line_probe import ask_line, sign_of_life
from firmware_bridge.registers import BAUD_RATES, STS3215_MODEL_NUMBER, Register

# Rates a servo may have been set to. Sources disagree about the slow ones: vendor headers have
# 76800, 57600 and 38400 where LeRobot has 57600, 38400 and 19200.
SEARCH_BAUD_RATES = (*BAUD_RATES, 76_800, 57_600, 38_400, 19_200)
MODEL_NAMES = {STS3215_MODEL_NUMBER: "sts3215", 2825: "sts3250", 11272: "sm8512bl", 1284: "scs0009"}
# The STS3215 comes as a 7.4 V and a 12 V build, told apart by the voltage limit it was made with.
BUILD_7V4_MAX_LIMIT_V = 9.0
_IDENTITY_BYTES = registers.MIN_VOLTAGE_LIMIT.address + 1


@dataclass(frozen=True, slots=True)
class ServoIdentity:
    """What one servo says of itself; `status` holds the fault bits of its reply."""

    servo_id: int
    model: int
    firmware: str
    max_voltage_limit_v: float
    supply_v: float
    temperature_c: int
    status: int

    @property
    def model_name(self) -> str:
        """The model's name, or `unknown`."""
        return MODEL_NAMES.get(self.model, "unknown")

    @property
    def build(self) -> str:
        """`7.4 V` or `12 V`, by the servo's own voltage limit."""
        return "7.4 V" if self.max_voltage_limit_v <= BUILD_7V4_MAX_LIMIT_V else "12 V"


def read_identity(bus: Bus, servo_id: int) -> ServoIdentity:
    """Ask one servo what it is. Raises BusError."""
    fixed = bus.read_bytes(servo_id, 0, _IDENTITY_BYTES)

    def value(register: Register) -> int:
        return register.decode(fixed.data[register.address :])

    return ServoIdentity(
        servo_id=servo_id,
        model=value(registers.MODEL_NUMBER),
        firmware=(
            f"{value(registers.FIRMWARE_MAJOR_VERSION)}.{value(registers.FIRMWARE_MINOR_VERSION)}"
        ),
        max_voltage_limit_v=value(registers.MAX_VOLTAGE_LIMIT) / 10.0,
        supply_v=bus.read(servo_id, registers.PRESENT_VOLTAGE) / 10.0,
        temperature_c=bus.read(servo_id, registers.PRESENT_TEMPERATURE),
        status=bus.status_bits[servo_id],
    )


def answering_ids(bus: Bus, servo_ids: Sequence[int]) -> list[int]:
    """Return the ids that give any sign of life; a silent one costs 20 ms. Raises PortError."""
    return [servo_id for servo_id in servo_ids if not ask_line(bus, sign_of_life(servo_id)).silent]


def buses_at_other_rates(open_at: Callable[[int], Bus], tried: int) -> Iterator[Bus]:
    """Yield a bus at every rate but `tried` that servos know and the port can do.

    Each is closed when the next one is asked for.
    """
    for baud_rate in SEARCH_BAUD_RATES:
        if baud_rate == tried:
            continue
        try:
            bus = open_at(baud_rate)
        except PortError:
            continue
        try:
            yield bus
        finally:
            bus.close()


def dump_eeprom(bus: Bus, servo_id: int) -> bytes:
    """Return registers 0..39 of one servo. Raises BusError."""
    return bus.read_bytes(servo_id, 0, registers.EEPROM_END).data
