"""What the registers of a servo ask of its motor, decoded once per write."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.emulator.faults import Faults
from firmware_bridge.emulator.register_file import RegisterFile
from firmware_bridge.registers import TICKS_PER_TURN

TICKS_PER_ACCELERATION_UNIT = 100
# Unit of speeds without Phase.FINE_SPEED, 0.732 rpm.
COARSE_SPEED_TICKS_S = 50
# In PWM mode Goal_Time is the duty, with its sign here (LeRobot's table says 11; a bench check 10).
PWM_SIGN_BIT = 10


class Mode(enum.IntEnum):
    """Operating_Mode."""

    POSITION = 0
    VELOCITY = 1
    PWM = 2
    STEP = 3


class Phase(enum.IntFlag):
    """Bits of the Phase register that mean something here."""

    REVERSED_DRIVE = 0x01
    FINE_SPEED = 0x04
    SPEED_0_IS_MAX = 0x08
    MULTI_TURN = 0x10
    REVERSED_FEEDBACK = 0x80


@dataclass(frozen=True, slots=True)
class DriveSettings:
    """Registers in the motor's units; `speed_ticks_s` None is as fast as it can."""

    mode: int
    min_ticks: int
    max_ticks: int
    p: int
    d: int
    startup_duty: float
    cw_dead_ticks: int
    ccw_dead_ticks: int
    speed_ticks_s: float | None
    goal_velocity_ticks_s: float
    velocity_p: int
    pwm_duty: float
    acceleration_ticks_s2: float
    torque_limit: float
    protective_duty: float
    protection_s: float
    overload_duty: float
    overload_measures: str
    over_current_raw: int
    over_current_s: float
    max_temperature_c: int
    heat_cuts: bool
    unloading_bits: int

    @property
    def unlimited(self) -> bool:
        """Whether the shaft may turn without end: both limits 0, or the step mode."""
        return self.mode == Mode.STEP or self.min_ticks == self.max_ticks == 0


def settings_from_registers(file: RegisterFile, mode: int, switches: Faults) -> DriveSettings:
    """Decode the registers; `mode` is the one the servo is in, whatever its register says."""
    value = file.value
    pwm = registers.int_from_sign_magnitude(value(registers.GOAL_TIME), PWM_SIGN_BIT) / 1000.0
    velocity_ticks_s = float(value(registers.GOAL_VELOCITY) * speed_unit_ticks_s(file))
    speed_ticks_s: float | None = abs(velocity_ticks_s)
    if speed_ticks_s == 0.0 and value(registers.PHASE) & Phase.SPEED_0_IS_MAX:
        speed_ticks_s = None
    return DriveSettings(
        mode=mode,
        min_ticks=value(registers.MIN_POSITION_LIMIT),
        max_ticks=value(registers.MAX_POSITION_LIMIT),
        p=value(registers.P_COEFFICIENT),
        d=value(registers.D_COEFFICIENT),
        startup_duty=file.byte(registers.MINIMUM_STARTUP_FORCE) / 1000.0,
        cw_dead_ticks=value(registers.CW_DEAD_ZONE),
        ccw_dead_ticks=value(registers.CCW_DEAD_ZONE),
        speed_ticks_s=speed_ticks_s,
        goal_velocity_ticks_s=velocity_ticks_s,
        velocity_p=value(registers.VELOCITY_P_COEFFICIENT),
        pwm_duty=max(-1.0, min(1.0, pwm)),
        acceleration_ticks_s2=float(value(registers.ACCELERATION) * TICKS_PER_ACCELERATION_UNIT),
        torque_limit=min(value(registers.TORQUE_LIMIT), 1000) / 1000.0,
        protective_duty=value(registers.PROTECTIVE_TORQUE) / 100.0,
        protection_s=value(registers.PROTECTION_TIME) / 100.0,
        overload_duty=value(registers.OVERLOAD_TORQUE) / 100.0,
        overload_measures=switches.overload_measures,
        over_current_raw=value(registers.PROTECTION_CURRENT),
        over_current_s=value(registers.OVER_CURRENT_PROTECTION_TIME) / 100.0,
        max_temperature_c=value(registers.MAX_TEMPERATURE_LIMIT),
        heat_cuts=switches.over_temperature == "cuts",
        unloading_bits=value(registers.UNLOADING_CONDITION),
    )


def speed_unit_ticks_s(file: RegisterFile) -> int:
    """Return what one unit of a speed register is."""
    return 1 if file.value(registers.PHASE) & Phase.FINE_SPEED else COARSE_SPEED_TICKS_S


def target_ticks(goal_ticks: int, settings: DriveSettings) -> int:
    """Return the position the servo goes to for a goal: the nearest limit, around the turn."""
    low, high = settings.min_ticks, settings.max_ticks
    if settings.unlimited or low <= goal_ticks <= high:
        return goal_ticks
    return min((low, high), key=lambda limit: _turn_distance(goal_ticks, limit))


def _turn_distance(one_ticks: int, other_ticks: int) -> int:
    forward = (one_ticks - other_ticks) % TICKS_PER_TURN
    return min(forward, TICKS_PER_TURN - forward)
