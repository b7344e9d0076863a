"""Checks an arm before it gets torque, and gives it torque so that it stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import (
    DEGREES_PER_TICK,
    JOINTS,
    Calibration,
    MotorCalibration,
)
from firmware_bridge.errors import ArmMoved, ServoFault
from firmware_bridge.registers import STS3215_MODEL_NUMBER, Register
from firmware_bridge.soft_stop import status_text

# Enough to feel a goal that is wrong, too little to do harm: 0.3 N m of 2.9 at 12 V.
LOW_TORQUE_PER_MILLE = 100
SETTLE_S = 0.2
RAMP_STEPS = 20
TICKS_PER_ACCELERATION_UNIT = 100
POSITION_MODE = 0
_PHASE_SPEED_0_IS_MAX, _PHASE_MULTI_TURN = 0x08, 0x10
# The STS3215 comes as a 7.4 V and a 12 V build, told apart by the voltage limit it was made with.
_BUILD_7V4_MAX_LIMIT_V = 9.0
_SUPPLY_7V4_V = (4.5, 8.0)
_SUPPLY_12V_V = (10.0, 13.5)


@dataclass(frozen=True, slots=True)
class ArmLimits:
    """What an arm may do once armed; all stated by whoever opens it, none has a default.

    `torque_limits_per_mille` (6,) in joint order, of stall torque; `acceleration_deg_s2` of the
    servos' own profile; `arming_max_temperature_c`, `arming_max_motion_deg` and `max_position_gain`
    (P_Coefficient, for which a goal's lead is reckoned) refuse arming; `ramp_s` is how long torque
    takes to come up.
    """

    torque_limits_per_mille: tuple[int, ...]
    acceleration_deg_s2: float
    arming_max_temperature_c: float
    arming_max_motion_deg: float
    max_position_gain: int
    ramp_s: float

    def __post_init__(self) -> None:
        torque = self.torque_limits_per_mille
        if len(torque) != len(JOINTS) or not all(0 < value <= 1000 for value in torque):
            raise ValueError(
                f"torque_limits_per_mille {torque}: needs {len(JOINTS)} values of 1..1000"
            )
        for name, high in (
            ("acceleration_deg_s2", 2232.0),
            ("arming_max_temperature_c", 70.0),
            ("arming_max_motion_deg", 10.0),
            ("max_position_gain", 254),
            ("ramp_s", 10.0),
        ):
            if not 0.0 < getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)}: allowed is above 0, up to {high}")

    @property
    def acceleration_units(self) -> int:
        """The Acceleration register's value, at least 1 because 0 means no limit."""
        units = self.acceleration_deg_s2 / DEGREES_PER_TICK / TICKS_PER_ACCELERATION_UNIT
        return max(1, min(254, round(units)))


def check_ready(bus: Bus, calibration: Calibration, limits: ArmLimits) -> None:
    """Raise ServoFault, or what the bus raises, unless every servo may be given torque."""
    firmware: dict[str, str] = {}
    for joint in JOINTS:
        motor = calibration[joint]
        who = f"servo {motor.id} ({joint})"
        bits = bus.ping(motor.id).error
        if bits:
            raise ServoFault(
                f"{who}: reports {status_text(bits)}; take its load off, then switch the arm's "
                "power off and on"
            )
        _demand(bus, motor, who, registers.MODEL_NUMBER, STS3215_MODEL_NUMBER, "use an STS3215")
        major = bus.read(motor.id, registers.FIRMWARE_MAJOR_VERSION)
        firmware[joint] = f"{major}.{bus.read(motor.id, registers.FIRMWARE_MINOR_VERSION)}"
        _demand(bus, motor, who, registers.OPERATING_MODE, POSITION_MODE, "set it to position mode")
        _check_phase(bus, motor, who)
        gain = bus.read(motor.id, registers.P_COEFFICIENT)
        if gain > limits.max_position_gain:
            raise ServoFault(
                f"{who}: p_coefficient is {gain}, at most {limits.max_position_gain} is allowed: a "
                "blocked joint would push harder than reckoned; run 'molmoact-arm doctor --fix'"
            )
        _check_supply(bus, motor, who)
        temperature_c = bus.read(motor.id, registers.PRESENT_TEMPERATURE)
        if temperature_c > limits.arming_max_temperature_c:
            raise ServoFault(
                f"{who}: temperature {temperature_c} C, arming allows up to "
                f"{limits.arming_max_temperature_c:g} C; let the arm cool down"
            )
        for register, value in (
            (registers.HOMING_OFFSET, motor.homing_offset),
            (registers.MIN_POSITION_LIMIT, motor.range_min),
            (registers.MAX_POSITION_LIMIT, motor.range_max),
        ):
            _demand(bus, motor, who, register, value, "use this arm's calibration file")
        _check_inside(bus, motor, who, limits.arming_max_motion_deg)
    if len(set(firmware.values())) > 1:
        found = ", ".join(f"{joint} {version}" for joint, version in firmware.items())
        raise ServoFault(f"servos have different firmware ({found}); update them to one version")


def bring_up_torque(
    bus: Bus, calibration: Calibration, limits: ArmLimits, sleep: Callable[[float], None]
) -> None:
    """Switch torque on with every goal at the present position, weakly first, then to the limits.

    Blocks for about `limits.ramp_s`. Raises ArmMoved, ServoFault or a bus error and then leaves
    torque as it is: the caller makes the arm limp.
    """
    motors = [calibration[joint] for joint in JOINTS]
    full = {
        motor.id: limit for motor, limit in zip(motors, limits.torque_limits_per_mille, strict=True)
    }
    low = {motor_id: min(LOW_TORQUE_PER_MILLE, limit) for motor_id, limit in full.items()}
    for motor_id, limit in low.items():
        _write_checked(bus, motor_id, registers.TORQUE_LIMIT, limit)
    for motor in motors:
        bus.write(motor.id, registers.ACCELERATION, limits.acceleration_units)
        bus.write(motor.id, registers.GOAL_TIME, 0)
        bus.write(motor.id, registers.GOAL_VELOCITY, 0)
    start_ticks = {}
    for motor in motors:
        start_ticks[motor.id] = bus.read(motor.id, registers.PRESENT_POSITION)
        _write_checked(bus, motor.id, registers.GOAL_POSITION, start_ticks[motor.id])
    for motor in motors:
        _write_checked(bus, motor.id, registers.TORQUE_ENABLE, 1)
    sleep(SETTLE_S)
    _check_still(bus, motors, start_ticks, limits.arming_max_motion_deg)
    for step in range(1, RAMP_STEPS + 1):
        torque = {
            motor_id: low[motor_id] + (full[motor_id] - low[motor_id]) * step // RAMP_STEPS
            for motor_id in full
        }
        bus.sync_write(registers.TORQUE_LIMIT, torque)
        sleep(limits.ramp_s / RAMP_STEPS)
        _check_still(bus, motors, start_ticks, limits.arming_max_motion_deg)
    for motor_id, limit in full.items():
        stored = bus.read(motor_id, registers.TORQUE_LIMIT)
        if stored != limit:
            raise ServoFault(
                f"servo {motor_id}: torque_limit reads {stored} after writing {limit}; check its "
                "power and arm again"
            )


def _check_still(
    bus: Bus, motors: Sequence[MotorCalibration], start_ticks: dict[int, int], max_motion_deg: float
) -> None:
    for joint, motor in zip(JOINTS, motors, strict=True):
        present = bus.read(motor.id, registers.PRESENT_POSITION)
        moved_deg = abs(present - start_ticks[motor.id]) * DEGREES_PER_TICK
        if moved_deg > max_motion_deg:
            raise ArmMoved(
                f"servo {motor.id} ({joint}): moved {moved_deg:.1f} deg while torque came on, "
                f"allowed are {max_motion_deg:g} deg; support the arm at rest and arm again"
            )


def _write_checked(bus: Bus, servo_id: int, register: Register, value: int) -> None:
    bus.write(servo_id, register, value)
    stored = bus.read(servo_id, register)
    if stored != value:
        raise ServoFault(
            f"servo {servo_id}: {register.name} reads {stored} after writing {value}; "
            "check that nothing else drives the bus"
        )


def _demand(
    bus: Bus, motor: MotorCalibration, who: str, register: Register, value: int, remedy: str
) -> None:
    found = bus.read(motor.id, register)
    if found != value:
        raise ServoFault(f"{who}: {register.name} is {found}, must be {value}; {remedy}")


def _check_inside(bus: Bus, motor: MotorCalibration, who: str, max_motion_deg: float) -> None:
    """Refuse a joint outside its range: the servo would drive it to the end as torque comes on."""
    present = bus.read(motor.id, registers.PRESENT_POSITION)
    outside = max(motor.range_min - present, present - motor.range_max)
    if outside * DEGREES_PER_TICK > max_motion_deg:
        raise ServoFault(
            f"{who}: is {outside * DEGREES_PER_TICK:.1f} deg outside its calibrated range, allowed "
            f"are {max_motion_deg:g} deg; move it back by hand"
        )


def _check_phase(bus: Bus, motor: MotorCalibration, who: str) -> None:
    phase = bus.read(motor.id, registers.PHASE)
    if phase & _PHASE_MULTI_TURN or not phase & _PHASE_SPEED_0_IS_MAX:
        raise ServoFault(
            f"{who}: phase is {phase}, single-turn feedback and speed 0 = maximum are needed "
            "(factory value 12); restore it"
        )


def _check_supply(bus: Bus, motor: MotorCalibration, who: str) -> None:
    limit_v = bus.read(motor.id, registers.MAX_VOLTAGE_LIMIT) / 10.0
    low_v, high_v = _SUPPLY_7V4_V if limit_v <= _BUILD_7V4_MAX_LIMIT_V else _SUPPLY_12V_V
    supply_v = bus.read(motor.id, registers.PRESENT_VOLTAGE) / 10.0
    if not low_v <= supply_v <= high_v:
        raise ServoFault(
            f"{who}: supply {supply_v:.1f} V, this servo needs {low_v:.1f}..{high_v:.1f} V; check "
            "the power supply"
        )
