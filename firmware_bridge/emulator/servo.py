"""One emulated STS3215: its register file and what its firmware does with it.

The registers follow the STS3215 memory table; the behaviour behind them (torque on by a goal write,
limits applied to the target but not to the register, the overload latch) was reported by users of
firmware 3.10. The motor law is in `drive.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.emulator.defaults import CENTRE_TICK, eeprom_values
from firmware_bridge.emulator.drive import Drive, DriveSettings, target_ticks
from firmware_bridge.packets import MAX_SERVO_ID, StatusBit
from firmware_bridge.registers import TICKS_PER_TURN, Access, Register

MEMORY_BYTES = 96
# Torque_Enable values beside 0 (off) and 1 (on); 2 damps, which an unpowered motor does as well.
RECENTRE = 128
MOVING_TICKS_S = 10

_READ_ONLY_ADDRESSES = frozenset(
    address
    for entry in registers.CONTROL_TABLE
    if entry.access is Access.READ_ONLY
    for address in range(entry.address, entry.address + entry.size)
)


@dataclass(frozen=True, slots=True)
class ServoOptions:
    """Behaviour on which reports disagree, and faults a servo starts with."""

    goal_write_clears_overload: bool = True
    torque_on_runs_to_stale_goal: bool = False
    initial_status_bits: int = 0


class EmulatedServo:
    """Answers reads and writes of one servo and turns its goal into motor duty."""

    def __init__(self, servo_id: int, options: ServoOptions | None = None) -> None:
        self.options = options or ServoOptions()
        self._stored = bytearray(registers.EEPROM_END)
        for entry, value in eeprom_values(servo_id).items():
            self._stored[entry.address : entry.address + entry.size] = entry.encode(value)
        self._encoder_ticks = float(CENTRE_TICK)
        self._velocity_ticks_s = 0.0
        self._supply_v: float | None = None
        self._power_up()
        # Overload and over-current start as latches, which can be released; other bits just stay.
        bits = self.options.initial_status_bits
        self.drive.overloaded = bool(bits & StatusBit.OVERLOAD)
        self.drive.over_current = bool(bits & StatusBit.CURRENT)
        self._stuck_bits = bits & ~(StatusBit.OVERLOAD | StatusBit.CURRENT)

    @property
    def servo_id(self) -> int:
        """The id that the servo answers to."""
        return self.value(registers.ID)

    @property
    def baud_rate(self) -> int | None:
        """The rate that the servo listens at; None for an index whose meaning is not settled."""
        index = self.value(registers.BAUD_RATE)
        rates = registers.BAUD_RATES
        return rates[index] if index < len(rates) else None

    @property
    def status_bits(self) -> int:
        """The error byte of every reply."""
        drive = self.drive
        bits = self._stuck_bits
        bits |= drive.too_hot * StatusBit.TEMPERATURE
        bits |= drive.over_current * StatusBit.CURRENT
        bits |= drive.overloaded * StatusBit.OVERLOAD
        if self._supply_v is not None:
            low = self.value(registers.MIN_VOLTAGE_LIMIT)
            high = self.value(registers.MAX_VOLTAGE_LIMIT)
            bits |= (not low <= round(self._supply_v * 10) <= high) * StatusBit.VOLTAGE
        return bits

    def value(self, register: Register) -> int:
        """Return the present value of a register."""
        return register.decode(
            bytes(self._memory[register.address : register.address + register.size])
        )

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes from `address`; beyond the table they are 0."""
        self._publish()
        data = bytes(self._memory[address : address + length])
        return data + bytes(length - len(data))

    def write(self, address: int, data: bytes) -> None:
        """Write registers as the firmware does; read-only bytes are passed over."""
        locked = bool(self.value(registers.LOCK))
        touched = set()
        for position, byte in enumerate(data, start=address):
            if position >= MEMORY_BYTES or position in _READ_ONLY_ADDRESSES:
                continue
            if position == registers.ID.address and byte > MAX_SERVO_ID:
                continue
            touched.add(position)
            self._memory[position] = byte
            # Locked, the change acts until power is lost; unlocked, it is also kept.
            if position < registers.EEPROM_END and not locked:
                self._stored[position] = byte
        self._refresh(touched)

    def power_cycle(self) -> None:
        """Lose power and come back with RAM defaults and what the EEPROM kept."""
        temperature_c = self.drive.temperature_c
        self._power_up()
        self.drive.temperature_c = temperature_c

    def restore_eeprom(self, values: dict[Register, int]) -> None:
        """Set registers as a factory would: kept, whatever the lock says, until written again."""
        for entry, value in values.items():
            encoded = entry.encode(value)
            self._memory[entry.address : entry.address + entry.size] = encoded
            if entry.address < registers.EEPROM_END:
                self._stored[entry.address : entry.address + entry.size] = encoded
        self._refresh(set())

    def step(
        self, position_deg: float, velocity_deg_s: float, supply_v: float, dt_s: float
    ) -> float:
        """Run the firmware for `dt_s` and return the motor duty, -1..1 of the supply voltage."""
        ticks_per_deg = TICKS_PER_TURN / 360.0
        self._encoder_ticks = CENTRE_TICK + position_deg * ticks_per_deg
        self._velocity_ticks_s = velocity_deg_s * ticks_per_deg
        self._supply_v = supply_v
        return self.drive.step(self._present_ticks(), self._velocity_ticks_s, dt_s)

    def _raw_ticks(self) -> int:
        return math.floor(self._encoder_ticks + 0.5) % TICKS_PER_TURN

    def _present_ticks(self) -> int:
        return (self._raw_ticks() - self._homing_offset) % TICKS_PER_TURN

    def _power_up(self) -> None:
        self._memory = bytearray(MEMORY_BYTES)
        self._memory[: registers.EEPROM_END] = self._stored
        self._set(registers.TORQUE_LIMIT, self.value(registers.MAX_TORQUE_LIMIT))
        self._set(registers.LOCK, 1)
        self._set(registers.MAXIMUM_VELOCITY_LIMIT, 68)
        self._set(registers.MAXIMUM_ACCELERATION, 254)
        self._homing_offset = self.value(registers.HOMING_OFFSET)
        self._stuck_bits = 0
        self.reg_write_pending = False
        self.drive = Drive(self._settings(), self._present_ticks())
        self._set(registers.GOAL_POSITION, self._present_ticks())

    def _refresh(self, touched: set[int]) -> None:
        """Act on what a write changed."""
        torque_address = registers.TORQUE_ENABLE.address
        goal = registers.GOAL_POSITION
        was_on = self.drive.torque_on
        if torque_address in touched and self.value(registers.TORQUE_ENABLE) == RECENTRE:
            self._recentre()
        self._homing_offset = self.value(registers.HOMING_OFFSET)
        goal_written = not touched.isdisjoint((goal.address, goal.address + 1))
        if goal_written:
            self._set(registers.TORQUE_ENABLE, 1)
            if self.options.goal_write_clears_overload:
                self.drive.clear_overload()
        self.drive.settings = self._settings()
        torque_on = self.value(registers.TORQUE_ENABLE) == 1
        switched_on = torque_on and not was_on
        if switched_on and not goal_written and not self.options.torque_on_runs_to_stale_goal:
            self._set(goal, self._present_ticks())
        if goal_written or switched_on:
            self.drive.set_target(
                target_ticks(self.value(goal), self.drive.settings), self._present_ticks()
            )
        self.drive.torque_on = torque_on

    def _recentre(self) -> None:
        """Choose the homing offset that makes the present position tick 2048."""
        offset = self._raw_ticks() - CENTRE_TICK
        limit = (1 << registers.HOMING_OFFSET.sign_bit) - 1
        self._set(registers.HOMING_OFFSET, max(-limit, min(limit, offset)))
        self._set(registers.TORQUE_ENABLE, 0)
        start = registers.HOMING_OFFSET.address
        if not self.value(registers.LOCK):
            self._stored[start : start + 2] = self._memory[start : start + 2]

    def _settings(self) -> DriveSettings:
        value = self.value
        return DriveSettings(
            mode=value(registers.OPERATING_MODE),
            min_ticks=value(registers.MIN_POSITION_LIMIT),
            max_ticks=value(registers.MAX_POSITION_LIMIT),
            p=value(registers.P_COEFFICIENT),
            d=value(registers.D_COEFFICIENT),
            startup_duty=self._memory[registers.MINIMUM_STARTUP_FORCE.address] / 1000.0,
            cw_dead_ticks=value(registers.CW_DEAD_ZONE),
            ccw_dead_ticks=value(registers.CCW_DEAD_ZONE),
            speed_ticks_s=self._speed_ticks_s(),
            acceleration_ticks_s2=value(registers.ACCELERATION) * 100.0,
            torque_limit=min(value(registers.TORQUE_LIMIT), 1000) / 1000.0,
            protective_duty=value(registers.PROTECTIVE_TORQUE) / 100.0,
            protection_s=value(registers.PROTECTION_TIME) / 100.0,
            overload_duty=value(registers.OVERLOAD_TORQUE) / 100.0,
            over_current_raw=value(registers.PROTECTION_CURRENT),
            over_current_s=value(registers.OVER_CURRENT_PROTECTION_TIME) / 100.0,
            max_temperature_c=value(registers.MAX_TEMPERATURE_LIMIT),
            unloading_bits=value(registers.UNLOADING_CONDITION),
        )

    def _speed_ticks_s(self) -> float | None:
        """Return the profile speed; None means as fast as the motor can."""
        phase = self.value(registers.PHASE)
        speed = abs(self.value(registers.GOAL_VELOCITY))
        if speed == 0:
            return None if phase & 0x08 else 0.0
        return float(speed if phase & 0x04 else speed * 50)

    def _publish(self) -> None:
        """Bring the feedback registers up to date."""
        drive, velocity_ticks_s = self.drive, round(self._velocity_ticks_s)
        supply_v = self._supply_v or 0.0
        self._set(registers.PRESENT_POSITION, self._present_ticks())
        self._set(registers.PRESENT_VELOCITY, max(-32767, min(32767, velocity_ticks_s)))
        self._set(registers.PRESENT_LOAD, round(drive.duty * 1000))
        self._set(registers.PRESENT_VOLTAGE, max(0, min(255, round(supply_v * 10))))
        self._set(registers.PRESENT_TEMPERATURE, max(0, min(255, round(drive.temperature_c))))
        self._set(registers.REG_WRITE_FLAG, int(self.reg_write_pending))
        self._set(registers.STATUS, self.status_bits)
        self._set(registers.MOVING, int(abs(velocity_ticks_s) > MOVING_TICKS_S))
        self._set(registers.TARGET_POSITION, round(drive.setpoint_ticks) % TICKS_PER_TURN)
        self._set(registers.PRESENT_CURRENT, min(round(drive.current_raw), 2047))
        goal = registers.GOAL_POSITION.address
        copy = registers.GOAL_POSITION_2.address
        self._memory[copy : copy + 2] = self._memory[goal : goal + 2]

    def _set(self, register: Register, value: int) -> None:
        self._memory[register.address : register.address + register.size] = register.encode(value)
