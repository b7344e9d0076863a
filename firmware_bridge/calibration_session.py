"""The steps of a calibration on the bus: limp arm, middle pose, sweep, writing, and the way back.

Nothing is written to a servo's memory before the ranges are known, except what the readings need:
position mode and single-turn feedback. Whatever was written can be put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from firmware_bridge import registers
from firmware_bridge.arming import POSITION_MODE
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import JOINTS, MAX_TICK, Calibration, MotorCalibration
from firmware_bridge.errors import BusError, ServoFault
from firmware_bridge.joint_sweep import (
    JointSweep,
    folded_problem,
    place_full_turn,
    place_sweep,
    sweep_problems,
)
from firmware_bridge.registers import STS3215_MODEL_NUMBER, TICKS_PER_TURN
from firmware_bridge.servo_memory import ServoMemory
from firmware_bridge.servo_state import MODEL_NAMES
from firmware_bridge.soft_stop import SoftStopReport, soft_stop

# LeRobot takes a whole turn for it: nothing stops this joint but its cable.
FREE_JOINT = "wrist_roll"
SWEPT_JOINTS = tuple(joint for joint in JOINTS if joint != FREE_JOINT)
IDS = {joint: servo_id for servo_id, joint in enumerate(JOINTS, start=1)}
MULTI_TURN_BIT = 0x10
READ_TRIES = 3


class CalibrationSession:
    """One calibration of the six servos on `bus`, ids 1..6 as LeRobot numbers them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._memory: ServoMemory | None = None
        self._offsets: dict[str, int] = {}
        self._middle: dict[str, int] = {}
        self.sweeps: dict[str, JointSweep] = {}

    def check_servos(self) -> None:
        """Raise ServoFault or BusTimeout unless all six are there and of the arm's model."""
        for joint, servo_id in IDS.items():
            model = self._bus.read(servo_id, registers.MODEL_NUMBER)
            if model != STS3215_MODEL_NUMBER:
                raise ServoFault(
                    f"servo {servo_id} ({joint}): is an {MODEL_NAMES.get(model, 'unknown model')} "
                    f"({model}), the arm needs an sts3215 ({STS3215_MODEL_NUMBER})"
                )

    def joints_with_torque(self) -> list[str]:
        """Return the joints that hold."""
        return [
            joint
            for joint, servo_id in IDS.items()
            if self._bus.read(servo_id, registers.TORQUE_ENABLE) != 0
        ]

    def make_limp(self) -> SoftStopReport:
        """Let the arm sink and switch its torque off."""
        return soft_stop(self._bus, tuple(IDS.values()))

    def read_memory(self, backup: Path | None) -> ServoMemory:
        """Read what the servos keep, and save it. Raises OSError when it cannot be saved."""
        self._memory = ServoMemory(self._bus, tuple(IDS.values()))
        if backup is not None:
            self._memory.save(backup)
        return self._memory

    def prepare(self) -> list[str]:
        """Make the servos report plain encoder positions; return what had to be changed.

        Raises ServoFault when torque is on or a position is off the scale all the same.
        """
        changed = []
        for joint, servo_id in IDS.items():
            if self._bus.read(servo_id, registers.TORQUE_ENABLE) != 0:
                raise ServoFault(f"servo {servo_id} ({joint}): torque is on; end what drives it")
            phase = self.memory.before(servo_id, registers.PHASE)
            if phase & MULTI_TURN_BIT:
                self.memory.write(servo_id, registers.PHASE, phase & ~MULTI_TURN_BIT)
                changed.append(f"{joint}: counted turns (phase {phase}), now single turn")
            if self.memory.write(servo_id, registers.OPERATING_MODE, POSITION_MODE):
                changed.append(f"{joint}: was not in position mode, now it is")
            self._offsets[joint] = self._bus.read(servo_id, registers.HOMING_OFFSET)
            present = self._bus.read(servo_id, registers.PRESENT_POSITION)
            if not 0 <= present <= MAX_TICK:
                raise ServoFault(
                    f"servo {servo_id} ({joint}): reports position {present}, outside 0..{MAX_TICK}"
                    ", from which no homing offset follows ('Magnitude exceeds 2047' in LeRobot); "
                    "switch its power off and on and calibrate again"
                )
        return changed

    @property
    def memory(self) -> ServoMemory:
        """What the servos held before; `read_memory` comes first."""
        assert self._memory is not None
        return self._memory

    def take_middle(self) -> None:
        """Remember where the joints are as the middle pose."""
        self._middle = self.raw_positions()

    def start_sweep(self, joints: Iterable[str] = SWEPT_JOINTS) -> None:
        """Begin to follow these joints anew."""
        raw, now_s = self.raw_positions(), self._bus.clock()
        self.sweeps.update({joint: JointSweep(raw[joint], now_s) for joint in joints})

    def follow(self, joints: Iterable[str] = SWEPT_JOINTS) -> None:
        """Take one reading of the joints; a lost one shows later as a gap."""
        replies = self._read_positions(tries=1)
        now_s = self._bus.clock()
        for joint in joints:
            if joint in replies:
                self.sweeps[joint].add(replies[joint], now_s)

    def problems(self, folded: Mapping[str, int] | None = None) -> dict[str, list[str]]:
        """Return what speaks against the sweeps, by joint, and against the folded pose."""
        found = {}
        for joint, sweep in self.sweeps.items():
            texts = sweep_problems(joint, sweep)
            if folded is not None and not texts:
                text = folded_problem(joint, sweep, folded[joint])
                texts = [text] if text else []
            if texts:
                found[joint] = texts
        return found

    def calibration(self) -> tuple[dict[str, MotorCalibration], list[str]]:
        """Return the calibration, and notes on joints for which LeRobot would fail.

        Raises ServoFault for a joint that turned all the way round.
        """
        motors, notes = {}, []
        for joint, servo_id in IDS.items():
            try:
                placed = (
                    place_full_turn(self._middle[joint])
                    if joint == FREE_JOINT
                    else place_sweep(self.sweeps[joint], self._middle[joint])
                )
            except ValueError as error:
                raise ServoFault(f"{joint}: {error}; is its horn loose?") from error
            if placed.note:
                notes.append(f"{joint}: {placed.note}")
            motors[joint] = MotorCalibration(
                servo_id, 0, placed.homing_offset, placed.range_min, placed.range_max
            )
        return motors, notes

    def write(self, calibration: Calibration) -> None:
        """Store offsets and ranges in the servos and read them back. Raises BusError."""
        for motor in calibration.values():
            for register, value in (
                (registers.HOMING_OFFSET, motor.homing_offset),
                (registers.MIN_POSITION_LIMIT, motor.range_min),
                (registers.MAX_POSITION_LIMIT, motor.range_max),
            ):
                self.memory.write(motor.id, register, value)

    def raw_positions(self) -> dict[str, int]:
        """Return encoder positions without homing offset, by joint. Raises BusTimeout."""
        raw = self._read_positions(tries=READ_TRIES)
        silent = [servo_id for joint, servo_id in IDS.items() if joint not in raw]
        if silent:
            raise BusError(
                f"servos {silent}: no position after {READ_TRIES} tries; check power and plugs"
            )
        return raw

    def _read_positions(self, tries: int) -> dict[str, int]:
        register = registers.PRESENT_POSITION
        replies = self._bus.sync_read(
            register.address, register.size, list(IDS.values()), tries=tries
        )
        return {
            joint: (register.decode(replies[servo_id].data) + self._offsets[joint]) % TICKS_PER_TURN
            for joint, servo_id in IDS.items()
            if servo_id in replies
        }
