"""What the emulated servos hold before anybody writes to them: an SO-101 follower as LeRobot
leaves it, on 12 V or of the 7.4 V build.

Register values are the STS3215 memory table's defaults, with what LeRobot writes to a follower when
it connects (P 16, D 32, I 0, return delay 0, a gentler gripper). Position limits are the joint
ranges of the SO-101's MJCF, centred on tick 2048, so that LeRobot's degrees equal plant degrees.
Voltage and current limits of the two builds are from dumps of real arms.
"""

from __future__ import annotations

from firmware_bridge import registers
from firmware_bridge.calibration import JOINTS, MotorCalibration
from firmware_bridge.registers import Register

GRIPPER_ID = 6
CENTRE_TICK = registers.TICKS_PER_TURN // 2
# Lowest and highest tick of each joint, ids 1..6. The wrist's roll is widened to be symmetric.
POSITION_LIMITS_TICKS = {
    1: (796, 3300),
    2: (910, 3186),
    3: (946, 3150),
    4: (967, 3129),
    5: (196, 3900),
    6: (1934, 3186),
}

# What the arm is run on: 12 V, or 5 V as the kits of the 7.4 V build are.
SUPPLY_V = {"12v": 12.0, "7.4v": 5.0}

_VERSION: dict[Register, int] = {
    registers.FIRMWARE_MAJOR_VERSION: 3,
    registers.FIRMWARE_MINOR_VERSION: 10,
    registers.MODEL_NUMBER: registers.STS3215_MODEL_NUMBER,
}
_FACTORY: dict[Register, int] = {
    registers.BAUD_RATE: 0,
    registers.RETURN_DELAY_TIME: 0,
    registers.RESPONSE_STATUS_LEVEL: 1,
    registers.MIN_POSITION_LIMIT: 0,
    registers.MAX_POSITION_LIMIT: registers.TICKS_PER_TURN - 1,
    registers.MAX_TEMPERATURE_LIMIT: 70,
    registers.MIN_VOLTAGE_LIMIT: 40,
    registers.MAX_TORQUE_LIMIT: 1000,
    registers.PHASE: 12,
    registers.UNLOADING_CONDITION: 44,
    registers.LED_ALARM_CONDITION: 47,
    registers.P_COEFFICIENT: 32,
    registers.D_COEFFICIENT: 32,
    registers.I_COEFFICIENT: 0,
    registers.MINIMUM_STARTUP_FORCE: 16,
    registers.CW_DEAD_ZONE: 1,
    registers.CCW_DEAD_ZONE: 1,
    registers.ANGULAR_RESOLUTION: 1,
    registers.HOMING_OFFSET: 0,
    registers.OPERATING_MODE: 0,
    registers.PROTECTIVE_TORQUE: 20,
    registers.PROTECTION_TIME: 200,
    registers.OVERLOAD_TORQUE: 80,
    registers.VELOCITY_P_COEFFICIENT: 10,
    registers.OVER_CURRENT_PROTECTION_TIME: 200,
    registers.VELOCITY_I_COEFFICIENT: 200,
}
_BUILDS: dict[str, dict[Register, int]] = {
    "12v": {registers.MAX_VOLTAGE_LIMIT: 140, registers.PROTECTION_CURRENT: 310},
    "7.4v": {registers.MAX_VOLTAGE_LIMIT: 80, registers.PROTECTION_CURRENT: 500},
}
_GRIPPER: dict[Register, int] = {
    registers.MAX_TORQUE_LIMIT: 500,
    registers.PROTECTION_CURRENT: 250,
    registers.OVERLOAD_TORQUE: 25,
}


def factory_values(build: str) -> dict[Register, int]:
    """Return what the EEPROM of a new servo of a `build` holds, without its id."""
    return {**_FACTORY, **_BUILDS[build]}


def eeprom_values(servo_id: int, build: str = "12v") -> dict[Register, int]:
    """Return what the EEPROM of one servo of the emulated arm holds, register by register."""
    values = {**_VERSION, **factory_values(build), registers.P_COEFFICIENT: 16}
    values[registers.ID] = servo_id
    if servo_id == GRIPPER_ID:
        values.update(_GRIPPER)
    if servo_id in POSITION_LIMITS_TICKS:
        low, high = POSITION_LIMITS_TICKS[servo_id]
        values[registers.MIN_POSITION_LIMIT] = low
        values[registers.MAX_POSITION_LIMIT] = high
    return values


def default_calibration() -> dict[str, MotorCalibration]:
    """Return the calibration of the emulated arm: ids 1..6, tick 2048 in the middle of the range.

    For the gripper, whose range is not symmetric, tick 2048 is 0 degrees of its joint.
    """
    return {
        joint: MotorCalibration(
            id=servo_id,
            drive_mode=0,
            homing_offset=0,
            range_min=POSITION_LIMITS_TICKS[servo_id][0],
            range_max=POSITION_LIMITS_TICKS[servo_id][1],
        )
        for servo_id, joint in enumerate(JOINTS, start=1)
    }


def joint_stops_deg() -> list[tuple[float, float]]:
    """Return where the emulated joints end, in plant degrees."""
    ticks_per_deg = registers.TICKS_PER_TURN / 360.0
    return [
        ((low - CENTRE_TICK) / ticks_per_deg, (high - CENTRE_TICK) / ticks_per_deg)
        for low, high in POSITION_LIMITS_TICKS.values()
    ]
