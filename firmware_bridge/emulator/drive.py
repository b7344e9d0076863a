"""The motor side of an emulated servo: setpoint profile, PWM law, protections and heat.

Sources, all for the STS3215 on 12 V: the PWM law (duty = P * 0.1649 per radian of error) is
K-Scale's identification; that the overload check looks at the commanded duty follows from the same
data; the heat figures fit a 30 minute holding test (about 1.6 C of rise per raw unit of current).
The scale of the D term and of the time constants is assumed. Only position mode drives the motor;
in the other modes the emulated servo is limp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from firmware_bridge.packets import StatusBit
from firmware_bridge.registers import TICKS_PER_TURN

DUTY_PER_RAD_AND_P = 0.1649
RAD_PER_TICK = 2.0 * math.pi / TICKS_PER_TURN
FIRMWARE_PERIOD_S = 0.001
MAX_SPEED_TICKS_S = 3400.0
NO_LOAD_SPEED_TICKS_S = 3072.0
STALL_CURRENT_RAW = 415.0
AMBIENT_C = 24.0
RISE_C_PER_RAW = 1.6
HEAT_TIME_CONSTANT_S = 720.0
POSITION_MODE = 0


@dataclass(frozen=True, slots=True)
class DriveSettings:
    """What the registers ask of the motor, decoded once per write."""

    mode: int
    min_ticks: int
    max_ticks: int
    p: int
    d: int
    startup_duty: float
    cw_dead_ticks: int
    ccw_dead_ticks: int
    speed_ticks_s: float | None
    acceleration_ticks_s2: float
    torque_limit: float
    protective_duty: float
    protection_s: float
    overload_duty: float
    over_current_raw: int
    over_current_s: float
    max_temperature_c: int
    unloading_bits: int


def target_ticks(goal_ticks: int, settings: DriveSettings) -> int:
    """Return the position the servo goes to for a goal: the nearest limit, around the turn."""
    low, high = settings.min_ticks, settings.max_ticks
    multi_turn = low == 0 and high == 0
    if multi_turn or low <= goal_ticks <= high:
        return goal_ticks
    return min((low, high), key=lambda limit: _turn_distance(goal_ticks, limit))


class Drive:
    """State of one motor: setpoint, duty, latched protections, temperature."""

    def __init__(self, settings: DriveSettings, present_ticks: int) -> None:
        self.settings = settings
        self.torque_on = False
        self.duty = 0.0
        self.current_raw = 0.0
        self.temperature_c = AMBIENT_C
        self.overloaded = False
        self.over_current = False
        self.setpoint_ticks = float(present_ticks)
        self._setpoint_speed_ticks_s = 0.0
        self._target_ticks = present_ticks
        self._overload_s = 0.0
        self._over_current_s = 0.0

    @property
    def too_hot(self) -> bool:
        """Whether the temperature is above the servo's limit."""
        return self.temperature_c > self.settings.max_temperature_c

    def set_target(self, target: int, present_ticks: int) -> None:
        """Head for a new target; a motor that was off starts from where it is."""
        self._target_ticks = target
        if not self.torque_on:
            self.setpoint_ticks = float(present_ticks)
            self._setpoint_speed_ticks_s = 0.0

    def clear_overload(self) -> None:
        """Release the overload and over-current latches."""
        self.overloaded = self.over_current = False
        self._overload_s = self._over_current_s = 0.0

    def step(self, present_ticks: int, velocity_ticks_s: float, dt_s: float) -> float:
        """Advance by `dt_s` and return the duty applied to the motor, -1..1."""
        settings = self.settings
        wanted = 0.0
        if self.torque_on and settings.mode == POSITION_MODE:
            self._move_setpoint(dt_s)
            wanted = self._position_duty(present_ticks, velocity_ticks_s)
        self._watch_overload(abs(wanted), dt_s)
        limit = settings.torque_limit
        latched = self.overloaded * StatusBit.OVERLOAD | self.over_current * StatusBit.CURRENT
        if latched & settings.unloading_bits:
            limit = min(limit, settings.protective_duty)
        if self.too_hot and settings.unloading_bits & StatusBit.TEMPERATURE:
            limit = 0.0
        self.duty = max(-limit, min(limit, wanted))
        # Supply current: what the bridge passes on is the duty's share of the motor current.
        motor = self.duty - velocity_ticks_s / NO_LOAD_SPEED_TICKS_S
        self.current_raw = max(0.0, STALL_CURRENT_RAW * self.duty * motor)
        self._watch_current(dt_s)
        steady_c = AMBIENT_C + RISE_C_PER_RAW * self.current_raw
        self.temperature_c += (steady_c - self.temperature_c) * dt_s / HEAT_TIME_CONSTANT_S
        return self.duty

    def _move_setpoint(self, dt_s: float) -> None:
        settings, target = self.settings, float(self._target_ticks)
        distance = target - self.setpoint_ticks
        speed_limit = settings.speed_ticks_s
        acceleration = settings.acceleration_ticks_s2
        if speed_limit is None and acceleration == 0.0:
            self.setpoint_ticks, self._setpoint_speed_ticks_s = target, 0.0
            return
        wanted = MAX_SPEED_TICKS_S if speed_limit is None else min(speed_limit, MAX_SPEED_TICKS_S)
        if acceleration > 0.0:
            wanted = min(wanted, math.sqrt(2.0 * acceleration * abs(distance)))
        wanted = math.copysign(wanted, distance)
        if acceleration > 0.0:
            change = acceleration * dt_s
            speed = self._setpoint_speed_ticks_s
            wanted = max(speed - change, min(speed + change, wanted))
        moved = wanted * dt_s
        if moved * distance >= 0.0 and abs(moved) >= abs(distance):
            self.setpoint_ticks, self._setpoint_speed_ticks_s = target, 0.0
        else:
            self.setpoint_ticks += moved
            self._setpoint_speed_ticks_s = wanted

    def _position_duty(self, present_ticks: int, velocity_ticks_s: float) -> float:
        settings = self.settings
        error = self.setpoint_ticks - present_ticks
        dead = settings.cw_dead_ticks if error > 0 else settings.ccw_dead_ticks
        if abs(error) <= dead:
            error = 0.0
        damping = settings.d * velocity_ticks_s * FIRMWARE_PERIOD_S
        duty = (settings.p * error - damping) * DUTY_PER_RAD_AND_P * RAD_PER_TICK
        if error:
            duty += math.copysign(settings.startup_duty, error)
        return max(-1.0, min(1.0, duty))

    def _watch_overload(self, wanted_duty: float, dt_s: float) -> None:
        settings = self.settings
        self._overload_s = self._overload_s + dt_s if wanted_duty > settings.overload_duty else 0.0
        if self._overload_s >= settings.protection_s > 0.0:
            self.overloaded = True

    def _watch_current(self, dt_s: float) -> None:
        settings = self.settings
        above = 0 < settings.over_current_raw < self.current_raw
        self._over_current_s = self._over_current_s + dt_s if above else 0.0
        if self._over_current_s >= settings.over_current_s > 0.0:
            self.over_current = True


def _turn_distance(one_ticks: int, other_ticks: int) -> int:
    forward = (one_ticks - other_ticks) % TICKS_PER_TURN
    return min(forward, TICKS_PER_TURN - forward)
