"""The motor side of an emulated servo: setpoint profile, PWM law, protections and heat.

Sources, all for the STS3215 on 12 V: the PWM law (duty = P * 0.1649 per radian of error) is
K-Scale's identification; that the overload check looks at the commanded duty follows from the same
data; the heat figures fit a 30 minute holding test (about 1.6 C of rise per raw unit of current).
That the setpoint travels at the speed latched with the goal is a user's bench log. The scale of the
D term, of the speed loop and of the time constants is assumed; there is no integral term.
"""

from __future__ import annotations

import enum
import math

from firmware_bridge.emulator.drive_settings import DriveSettings, Mode
from firmware_bridge.packets import StatusBit
from firmware_bridge.registers import TICKS_PER_TURN

DUTY_PER_RAD_AND_P = 0.1649
RAD_PER_TICK = 2.0 * math.pi / TICKS_PER_TURN
FIRMWARE_PERIOD_S = 0.001
MAX_SPEED_TICKS_S = 3400.0
MAX_ACCELERATION_TICKS_S2 = 25400.0
NO_LOAD_SPEED_TICKS_S = 3072.0
STALL_CURRENT_RAW = 415.0
AMBIENT_C = 24.0
RISE_C_PER_RAW = 1.6
HEAT_TIME_CONSTANT_S = 720.0
# Duty per tick/s of speed error and unit of the velocity P coefficient.
DUTY_PER_SPEED_AND_P = 1e-4
# A servo that was too hot is so until it has cooled by this much.
HEAT_HYSTERESIS_C = 2.0
_TEMPERATURE, _CURRENT, _OVERLOAD = (
    int(bit) for bit in (StatusBit.TEMPERATURE, StatusBit.CURRENT, StatusBit.OVERLOAD)
)


class Torque(enum.IntEnum):
    """Torque_Enable, as far as the motor goes."""

    OFF = 0
    ON = 1
    DAMPING = 2


class Drive:
    """State of one motor: setpoint, duty, latched protections, temperature."""

    def __init__(self, settings: DriveSettings, present_ticks: int) -> None:
        self.settings = settings
        self.torque = Torque.OFF
        self.duty = 0.0
        self.current_raw = 0.0
        self.temperature_c = AMBIENT_C
        self.too_hot = False
        self.overloaded = False
        self.over_current = False
        self.setpoint_ticks = float(present_ticks)
        self.target_ticks = present_ticks
        self._run_speed_ticks_s: float | None = None
        self._speed_ticks_s = 0.0
        self._overload_s = 0.0
        self._over_current_s = 0.0

    def start_run(self, target: int, present_ticks: int) -> None:
        """Head for a new target at the speed set by now; a motor that was off starts from here."""
        self.target_ticks = target
        self._run_speed_ticks_s = self.settings.speed_ticks_s
        if self.torque is not Torque.ON:
            self.setpoint_ticks = float(present_ticks)
            self._speed_ticks_s = 0.0

    def release_latches(self) -> None:
        """Release the overload and over-current latches; what leads up to one goes on."""
        if self.overloaded:
            self.overloaded, self._overload_s = False, 0.0
        if self.over_current:
            self.over_current, self._over_current_s = False, 0.0

    def step(
        self,
        present_ticks: int,
        velocity_ticks_s: float,
        dt_s: float,
        *,
        supply_ratio: float = 1.0,
        cut: bool = False,
    ) -> float:
        """Advance by `dt_s` and return the duty applied to the motor, -1..1.

        `supply_ratio` is the supply over the 12 V that the figures are for; `cut` takes the drive
        away for a fault that is not this motor's.
        """
        settings = self.settings
        wanted = self._wanted_duty(present_ticks, velocity_ticks_s, dt_s)
        limit = settings.torque_limit
        self.duty = max(-limit, min(limit, wanted))
        self._watch_overload(wanted, dt_s)
        self._watch_heat()
        latched = self.overloaded * _OVERLOAD | self.over_current * _CURRENT
        if latched & settings.unloading_bits:
            limit = min(limit, settings.protective_duty)
        if cut or (self.too_hot and settings.heat_cuts and settings.unloading_bits & _TEMPERATURE):
            limit = 0.0
        self.duty = max(-limit, min(limit, wanted))
        # Supply current: what the bridge passes on is the duty's share of the motor current.
        motor = self.duty * supply_ratio - velocity_ticks_s / NO_LOAD_SPEED_TICKS_S
        self.current_raw = max(0.0, STALL_CURRENT_RAW * self.duty * motor)
        self._watch_current(dt_s)
        steady_c = AMBIENT_C + RISE_C_PER_RAW * self.current_raw
        self.temperature_c += (steady_c - self.temperature_c) * dt_s / HEAT_TIME_CONSTANT_S
        return self.duty

    def _watch_heat(self) -> None:
        over_c = self.temperature_c - self.settings.max_temperature_c
        self.too_hot = over_c > (-HEAT_HYSTERESIS_C if self.too_hot else 0.0)

    def _wanted_duty(self, present_ticks: int, velocity_ticks_s: float, dt_s: float) -> float:
        settings = self.settings
        if self.torque is Torque.DAMPING:
            return max(-1.0, min(1.0, -velocity_ticks_s / NO_LOAD_SPEED_TICKS_S))
        if self.torque is not Torque.ON:
            return 0.0
        if settings.mode == Mode.VELOCITY:
            return self._velocity_duty(velocity_ticks_s, dt_s)
        if settings.mode == Mode.PWM:
            return settings.pwm_duty
        self._move_setpoint(dt_s)
        return self._position_duty(present_ticks, velocity_ticks_s)

    def _move_setpoint(self, dt_s: float) -> None:
        target = float(self.target_ticks)
        distance = target - self.setpoint_ticks
        acceleration = self.settings.acceleration_ticks_s2
        speed_limit = self._run_speed_ticks_s
        if speed_limit is None and acceleration == 0.0:
            self.setpoint_ticks, self._speed_ticks_s = target, 0.0
            return
        acceleration = acceleration or MAX_ACCELERATION_TICKS_S2
        wanted = MAX_SPEED_TICKS_S if speed_limit is None else min(speed_limit, MAX_SPEED_TICKS_S)
        wanted = min(wanted, math.sqrt(2.0 * acceleration * abs(distance)))
        speed = self._ramped(math.copysign(wanted, distance), acceleration * dt_s)
        moved = speed * dt_s
        if moved * distance >= 0.0 and abs(moved) >= abs(distance):
            self.setpoint_ticks, self._speed_ticks_s = target, 0.0
        else:
            self.setpoint_ticks += moved

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

    def _velocity_duty(self, velocity_ticks_s: float, dt_s: float) -> float:
        settings = self.settings
        acceleration = settings.acceleration_ticks_s2 or MAX_ACCELERATION_TICKS_S2
        speed = self._ramped(settings.goal_velocity_ticks_s, acceleration * dt_s)
        error = speed - velocity_ticks_s
        duty = speed / NO_LOAD_SPEED_TICKS_S + settings.velocity_p * DUTY_PER_SPEED_AND_P * error
        return max(-1.0, min(1.0, duty))

    def _ramped(self, wanted_ticks_s: float, change_ticks_s: float) -> float:
        """Bring the setpoint's speed nearer to the wanted one and return it."""
        speed = self._speed_ticks_s
        self._speed_ticks_s = max(
            speed - change_ticks_s, min(speed + change_ticks_s, wanted_ticks_s)
        )
        return self._speed_ticks_s

    def _watch_overload(self, wanted_duty: float, dt_s: float) -> None:
        settings = self.settings
        measured = abs(wanted_duty if settings.overload_measures == "command" else self.duty)
        if settings.overload_measures == "share_of_limit" and settings.torque_limit > 0.0:
            measured /= settings.torque_limit
        self._overload_s = self._overload_s + dt_s if measured > settings.overload_duty else 0.0
        if self._overload_s >= settings.protection_s > 0.0:
            self.overloaded = True

    def _watch_current(self, dt_s: float) -> None:
        settings = self.settings
        above = 0 < settings.over_current_raw < self.current_raw
        self._over_current_s = self._over_current_s + dt_s if above else 0.0
        if self._over_current_s >= settings.over_current_s > 0.0:
            self.over_current = True
