"""What the servos report in one block read (registers 56 to 70), in a user's units."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from firmware_bridge import registers
from firmware_bridge.calibration import (
    JOINTS,
    Calibration,
    position_from_ticks,
    velocity_from_ticks,
)
from firmware_bridge.exchange import Reply
from firmware_bridge.registers import int_from_sign_magnitude

MA_PER_RAW = 6.5
# Position, velocity, load, voltage, temperature, reg-write flag, status, moving, target, current.
_BLOCK = struct.Struct("<HHHBBBBBHH")
_SILENT = (math.nan,) * 6
_POSITION_SIGN = registers.PRESENT_POSITION.sign_bit
_VELOCITY_SIGN = registers.PRESENT_VELOCITY.sign_bit
_LOAD_SIGN = registers.PRESENT_LOAD.sign_bit
_CURRENT_SIGN = registers.PRESENT_CURRENT.sign_bit


@dataclass(frozen=True, slots=True)
class ArmReading:
    """What all servos reported in one block read; arrays are (6,) in joint order.

    `positions` are degrees and gripper percent, `velocities` the same per second, `loads` the
    signed motor duty -1..1, `status` the fault bits (`StatusBit`) of the reply and of the Status
    register, `t_s` the monotonic time at which the last reply was in. Of a pair of arms the arrays
    are (12,), left arm first.
    """

    t_s: float
    positions: np.ndarray
    velocities: np.ndarray
    loads: np.ndarray
    currents_ma: np.ndarray
    voltages_v: np.ndarray
    temperatures_c: np.ndarray
    status: np.ndarray


class FeedbackDecoder:
    """Turns the replies to a block read into an `ArmReading`."""

    def __init__(self, calibration: Calibration) -> None:
        self._motors = [(joint, calibration[joint]) for joint in JOINTS]

    def decode(self, replies: Mapping[int, Reply], t_s: float) -> ArmReading:
        """Return the reading; the joints of servos without a reply are NaN, their status 0."""
        rows, status = [], []
        for joint, motor in self._motors:
            reply = replies.get(motor.id)
            if reply is None:
                rows.append(_SILENT)
                status.append(0)
                continue
            ticks, speed, duty, volts, celsius, _, bits, _, _, current = _BLOCK.unpack(reply.data)
            ticks = int_from_sign_magnitude(ticks, _POSITION_SIGN)
            speed = int_from_sign_magnitude(speed, _VELOCITY_SIGN)
            rows.append(
                (
                    position_from_ticks(joint, motor, ticks),
                    velocity_from_ticks(joint, motor, speed),
                    int_from_sign_magnitude(duty, _LOAD_SIGN) / 1000.0,
                    int_from_sign_magnitude(current, _CURRENT_SIGN) * MA_PER_RAW,
                    volts / 10.0,
                    celsius,
                )
            )
            status.append(bits | reply.error)
        # One row per quantity, in the order of the reading's fields.
        columns = np.array(rows, dtype=np.float64).T.copy()
        return ArmReading(t_s, *columns, status=np.array(status, dtype=np.uint8))
