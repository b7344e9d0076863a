"""One emulated STS3215: what its firmware does with its registers.

The registers follow the STS3215 memory table; the behaviour behind them (torque on by a goal write,
limits applied to the target but not to the register, the overload latch, no homing offset in the
velocity mode) was reported by users of firmware 3.10. The motor law is in `drive.py`.
"""

from __future__ import annotations

import math

from firmware_bridge import registers
from firmware_bridge.emulator.defaults import CENTRE_TICK, eeprom_values, factory_values
from firmware_bridge.emulator.drive import Drive, Torque
from firmware_bridge.emulator.drive_settings import (
    DriveSettings,
    Mode,
    Phase,
    settings_from_registers,
    speed_unit_ticks_s,
    target_ticks,
)
from firmware_bridge.emulator.faults import REGISTERS, Faults, ServoFaults
from firmware_bridge.emulator.register_file import RegisterFile
from firmware_bridge.packets import StatusBit
from firmware_bridge.registers import TICKS_PER_TURN, Register

RECENTRE = 128
MOVING_TICKS_S = 10
# How long `moving` stays 0 after a goal; a user who polled it at once got "done".
MOVING_DELAY_S = 0.005
TICKS_PER_DEG = TICKS_PER_TURN / 360.0
MAX_POSITION = 0x7FFF
MAX_OFFSET = (1 << registers.HOMING_OFFSET.sign_bit) - 1
# What Baud_Rate 5, 6 and 7 mean: the vendor's headers, and LeRobot's table.
SLOW_BAUD_RATES = {"vendor": (76_800, 57_600, 38_400), "lerobot": (57_600, 38_400, 19_200)}
_VOLTAGE = int(StatusBit.VOLTAGE)
_LATCHES = int(StatusBit.OVERLOAD | StatusBit.CURRENT)


class EmulatedServo:
    """Answers reads and writes of one servo and turns its goal into motor duty.

    `place` is the id it was built with, which stays its name when the id is changed. `faults` holds
    the switches for behaviour that is not settled, `own` what is wrong with this servo.
    """

    def __init__(
        self, place: int, faults: Faults | None = None, own: ServoFaults | None = None
    ) -> None:
        self.place = place
        self.switches = faults or Faults()
        self.file = RegisterFile(eeprom_values(place, self.switches.build))
        self._shaft_ticks = CENTRE_TICK
        self._velocity_ticks_s = 0.0
        self._supply_v: float | None = None
        self._now_s = 0.0
        self._power_up()
        self.set_faults(self.switches, own or ServoFaults())

    @property
    def servo_id(self) -> int:
        """The id that the servo answers to."""
        return self.value(registers.ID)

    @property
    def baud_rate(self) -> int | None:
        """The rate that the servo listens at; None for an index that means nothing."""
        index = self.value(registers.BAUD_RATE)
        rates = registers.BAUD_RATES + SLOW_BAUD_RATES[self.switches.slow_baud_rates]
        return rates[index] if index < len(rates) else None

    @property
    def firmware(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = registers.FIRMWARE_MAJOR_VERSION, registers.FIRMWARE_MINOR_VERSION
        return self.value(major), self.value(minor)

    @property
    def return_delay_s(self) -> float:
        """How long the servo waits before it answers."""
        delay_s = self.value(registers.RETURN_DELAY_TIME) * 2e-6
        if self.switches.return_delay == "at_least_100_us":
            return max(100e-6, delay_s)
        return delay_s if self.switches.return_delay == "as_set" else 0.0

    @property
    def status_bits(self) -> int:
        """The error byte of every reply."""
        drive = self.drive
        bits = self._outside_bits()
        bits |= drive.too_hot * StatusBit.TEMPERATURE
        bits |= drive.over_current * StatusBit.CURRENT
        bits |= drive.overloaded * StatusBit.OVERLOAD
        return bits

    def set_faults(self, faults: Faults, own: ServoFaults) -> None:
        """Take over switches, and set the fault bits and registers that `own` asks for."""
        self.switches, self._own = faults, own
        self.force_status(own.status_bits)
        values = {REGISTERS[name]: value for name, value in own.registers.items()}
        self.restore_eeprom({registers.RESPONSE_STATUS_LEVEL: own.response_status_level, **values})

    def force_status(self, bits: int, until_s: float = math.inf) -> None:
        """Set fault bits: overload and over-current as latches, which can be released."""
        self.drive.overloaded |= bool(bits & StatusBit.OVERLOAD)
        self.drive.over_current |= bool(bits & StatusBit.CURRENT)
        self._forced_bits, self._forced_until_s = bits & ~_LATCHES, until_s

    def value(self, register: Register) -> int:
        """Return the present value of a register."""
        return self.file.value(register)

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes from `address`; beyond the table they are 0."""
        self._publish()
        return self.file.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """Write registers as the firmware does; read-only bytes are passed over."""
        drops = self.switches.locked_eeprom_write == "dropped"
        self._refresh(self.file.write(address, data, locked_drops=drops))

    def restore_eeprom(self, values: dict[Register, int]) -> None:
        """Set registers as a factory would, whatever the lock says."""
        self._refresh(self.file.store(values))

    def restore(self) -> None:
        """Bring back what was backed up, or what the factory set; the id stays."""
        values = self.file.backed_up()
        self.restore_eeprom(factory_values(self.switches.build) if values is None else values)

    def power_cycle(self) -> None:
        """Lose power and come back with RAM defaults and what the EEPROM kept."""
        temperature_c = self.drive.temperature_c
        self._power_up()
        self.drive.temperature_c = temperature_c

    def forget_turns(self) -> None:
        """Start to count turns anew, as after power-up."""
        self._origin_ticks = self._shaft_ticks // TICKS_PER_TURN * TICKS_PER_TURN

    def recalibrate(self, ticks: int = CENTRE_TICK) -> None:
        """Choose the homing offset that makes the present position `ticks`, as far as one can."""
        half_turn = TICKS_PER_TURN // 2
        offset = (self._shaft_ticks - ticks + half_turn) % TICKS_PER_TURN - half_turn
        self.file.set(registers.HOMING_OFFSET, max(-MAX_OFFSET, min(MAX_OFFSET, offset)))
        self.file.keep(registers.HOMING_OFFSET)
        self.drive.settings = self._decode()

    def step(
        self,
        position_deg: float,
        velocity_deg_s: float,
        supply_v: float,
        *,
        supply_ratio: float,
        now_s: float,
        dt_s: float,
    ) -> float:
        """Run the firmware for `dt_s` and return the motor duty, -1..1 of the supply voltage."""
        feedback = self._feedback
        self._shaft_ticks = CENTRE_TICK + math.floor(feedback * position_deg * TICKS_PER_DEG + 0.5)
        self._velocity_ticks_s = feedback * velocity_deg_s * TICKS_PER_DEG
        self._supply_v = supply_v
        self._now_s = now_s
        duty = self.drive.step(
            self._present_ticks(),
            self._velocity_ticks_s,
            dt_s,
            supply_ratio=supply_ratio,
            cut=self._outside_bits() & self.drive.settings.unloading_bits != 0,
        )
        return self._polarity * duty

    def _outside_bits(self) -> int:
        """Fault bits that do not come from the motor: what is forced, and the supply."""
        bits = self._forced_bits if self._now_s < self._forced_until_s else 0
        low, high = self._supply_limits
        if self._supply_v is None or low <= round(self._supply_v * 10) <= high:
            return bits
        return bits | _VOLTAGE

    def _present_ticks(self) -> int:
        """The position as the firmware counts it: within one turn unless it counts turns."""
        position = self._shaft_ticks - self._origin_ticks - self._offset
        return position if self._counts_turns else position % TICKS_PER_TURN

    def _power_up(self) -> None:
        self.file.power_up()
        self._forced_bits, self._forced_until_s = 0, 0.0
        self._goal_written_s = -math.inf
        self.pending_write: tuple[int, bytes] | None = None
        self.forget_turns()
        self._mode = self._mode_register = self.value(registers.OPERATING_MODE)
        settings = self._decode()
        present = self._present_ticks()
        self.drive = Drive(settings, present)
        zero = self.switches.goal_after_power_up == "zero"
        self.file.set(registers.GOAL_POSITION, 0 if zero else present)

    def _decode(self) -> DriveSettings:
        """Take what every step needs out of the registers."""
        settings = settings_from_registers(self.file, self._mode, self.switches)
        phase = Phase(self.value(registers.PHASE) & sum(Phase))
        self._feedback = -1.0 if Phase.REVERSED_FEEDBACK in phase else 1.0
        self._polarity = -1.0 if Phase.REVERSED_DRIVE in phase else 1.0
        self._reports_turns = Phase.MULTI_TURN in phase
        self._counts_turns = self._reports_turns or settings.unlimited
        self._speed_unit_ticks_s = speed_unit_ticks_s(self.file)
        velocity_mode = self._mode == Mode.VELOCITY
        self._offset = 0 if velocity_mode else self.value(registers.HOMING_OFFSET)
        self._supply_limits = (
            self.value(registers.MIN_VOLTAGE_LIMIT),
            self.value(registers.MAX_VOLTAGE_LIMIT),
        )
        return settings

    def _refresh(self, touched: set[int]) -> None:
        """Act on what a write changed."""
        drive, goal = self.drive, registers.GOAL_POSITION
        goal_written = not touched.isdisjoint((goal.address, goal.address + 1))
        if self._torque() == RECENTRE:
            self.recalibrate()
            self.file.set(registers.TORQUE_ENABLE, Torque.OFF)
        if goal_written:
            self.file.set(registers.TORQUE_ENABLE, Torque.ON)
            self._goal_written_s = self._now_s
            if self.switches.overload_clears_on == "goal_write":
                drive.release_latches()
        if registers.MAX_TORQUE_LIMIT.address in touched:
            self._take_torque_limit()
        self._change_mode()
        drive.settings = self._decode()
        switched_on = self._torque() == Torque.ON and drive.torque is not Torque.ON
        if switched_on and not goal_written and not self._own.torque_on_runs_to_stale_goal:
            self.file.set(goal, max(-MAX_POSITION, min(MAX_POSITION, self._present_ticks())))
        if goal_written or switched_on:
            drive.start_run(self._target(goal_written), self._present_ticks())
        drive.torque = self._drive_torque()

    def _take_torque_limit(self) -> None:
        if self.switches.max_torque_limit_acts == "at_once":
            self.file.set(registers.TORQUE_LIMIT, self.value(registers.MAX_TORQUE_LIMIT))

    def _target(self, goal_written: bool) -> int:
        goal, drive = self.value(registers.GOAL_POSITION), self.drive
        if self._mode == Mode.STEP:
            start = drive.target_ticks if drive.torque is Torque.ON else self._present_ticks()
            return start + goal if goal_written else start
        return target_ticks(goal, drive.settings)

    def _change_mode(self) -> None:
        """Follow the mode register, except out of the velocity mode while torque is on.

        A user found the servo still in velocity mode then, with the register reading 0; torque off,
        mode 1, mode 0 brought it back.
        """
        wanted = self.value(registers.OPERATING_MODE)
        leaves = self._mode_register == Mode.VELOCITY and wanted == Mode.POSITION
        sticks = self.switches.velocity_mode == "sticks" and self.drive.torque is Torque.ON
        if wanted != self._mode_register and not (leaves and sticks):
            self._mode = wanted
        self._mode_register = wanted

    def _torque(self) -> int:
        return self.file.byte(registers.TORQUE_ENABLE)

    def _drive_torque(self) -> Torque:
        value = self._torque()
        if value == Torque.DAMPING and self.switches.torque_enable_2 == "damps":
            return Torque.DAMPING
        return Torque.ON if value == Torque.ON else Torque.OFF

    def _publish(self) -> None:
        """Bring the feedback registers up to date."""
        drive, put = self.drive, self.file.set
        position = self._present_ticks()
        if self._reports_turns:
            position = max(-MAX_POSITION, min(MAX_POSITION, position))
        else:
            position %= TICKS_PER_TURN
        speed = round(self._velocity_ticks_s / self._speed_unit_ticks_s)
        moving = abs(self._velocity_ticks_s) > MOVING_TICKS_S
        current = min(round(drive.current_raw), 2047)
        if self.switches.current_sign == "bit_15" and drive.duty < 0.0:
            current = -current
        put(registers.PRESENT_POSITION, position)
        put(registers.PRESENT_VELOCITY, max(-MAX_POSITION, min(MAX_POSITION, speed)))
        put(registers.PRESENT_LOAD, round(drive.duty * 1000))
        put(registers.PRESENT_VOLTAGE, max(0, min(255, round((self._supply_v or 0.0) * 10))))
        put(registers.PRESENT_TEMPERATURE, max(0, min(255, round(drive.temperature_c))))
        put(registers.REG_WRITE_FLAG, int(self.pending_write is not None))
        put(registers.STATUS, self.status_bits)
        waited_s = self._now_s - self._goal_written_s
        put(registers.MOVING, int(moving and waited_s >= MOVING_DELAY_S))
        put(registers.TARGET_POSITION, round(drive.setpoint_ticks) % TICKS_PER_TURN)
        put(registers.PRESENT_CURRENT, current)
        goal = self.file.read(registers.GOAL_POSITION.address, registers.GOAL_POSITION.size)
        put(registers.GOAL_POSITION_2, int.from_bytes(goal, "little"))
