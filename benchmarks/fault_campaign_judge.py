"""Judges a control loop from the servos' side: what reached them, what was believed of them.

Nothing here shares a rule with the code under test except the profile's numbers. It looks at every
frame on its way to the emulated servos, at their registers, and at every goal the gate let through.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from edge.arm_profile import ArmProfile
from edge.joints import JointReading
from firmware_bridge import registers
from firmware_bridge.calibration import JOINTS, Calibration, MotorCalibration
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.servo import EmulatedServo
from firmware_bridge.packets import Frame, FrameParser, Instruction

EXAMPLES = 5
# Positions are cut to ticks, so a goal on the wire is less than one from what was meant.
TICKS_APART = 1.0 + 1e-6
# A reading may be this much older than the last one when a goal is based on it; profile times are
# added. What a joint did meanwhile does not count against the goal.
SLACK_S = 0.05
_BLOCK, _BLOCK_BYTES = registers.FEEDBACK_ADDRESS, registers.FEEDBACK_BYTES
_SAID = struct.Struct("<HHHBBBBBHH")
_GOAL = registers.GOAL_POSITION.address


@dataclass(slots=True)
class Faulted:
    """What must not happen, counted, with the first few cases in words."""

    broken_limits: int = 0
    wrong_readings: int = 0
    torque_left_on: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a case in words, if there is room."""
        if len(self.examples) < EXAMPLES:
            self.examples.append(text)


class Judge:
    """Watches one emulated arm; `found` has what must not happen."""

    def __init__(self, bus: EmulatedBus, calibration: Calibration, arm: ArmProfile) -> None:
        self.found = Faulted()
        self.commands = 0  # frames with goals
        self.readings = 0  # accepted by the arm
        self.pushing_and_named = 0  # servos that could not be reached, and were said to be so
        self.driving = False  # whether goals must come from the gate
        self._bus = bus
        self._motors = [(joint, calibration[joint]) for joint in JOINTS]
        self._lead_ticks = [
            max_lead_ticks(joint.max_lead, joint.is_gripper, calibration[own])
            for joint, own in zip(arm.joints, JOINTS, strict=True)
        ]
        self._torque_limits = [joint.torque_limit_permille for joint in arm.joints]
        self._window_s = arm.safety.stop_state_age_s + SLACK_S
        self._been: deque[tuple[float, list[int]]] = deque()
        self._named: set[int] = set()  # by the last soft stop, as not confirmed
        self._allowed: np.ndarray | None = None
        self._said: list[dict[int, list[tuple[bytes, int]]]] = []
        self._parser = FrameParser()
        self._frames: list[Frame] = []
        self._before: list[tuple[bool, int]] = []

    def frame_begins(self, data: bytes) -> None:
        """Look at a frame that is about to reach the servos, and at them."""
        self._frames = list(self._parser.feed(data))
        if any(frame.code == Instruction.SYNC_READ for frame in self._frames):
            self._note_answers(self._frames[-1])
        self._note_positions()
        self._before = [_torque_and_goal(servo) for servo in self._bus.servos]

    def frame_ended(self) -> None:
        """Look at what it did to them."""
        broken = []
        if self.driving:
            for frame in self._frames:
                broken += self._not_from_the_gate(frame)
        for place, servo in enumerate(self._bus.servos):
            broken += self._changed(place, servo)
        if broken:
            self.found.broken_limits += 1
            self.found.note(f"{self._bus.now_s:.3f} s: on the wire: {broken[0]}")

    def let_through(self, goal: np.ndarray | None, broken: list[str]) -> None:
        """Take what the gate decided: a goal in joint units, and the limits it breaks."""
        self._allowed = None if goal is None else goal.copy()
        if broken:
            self.found.broken_limits += 1
            self.found.note(f"{self._bus.now_s:.3f} s: gate: {broken[0]}")

    def reading_begins(self) -> None:
        """Forget what was said before: only an answer to what is asked now may be believed."""
        self._said.clear()

    def reading_taken(self, reading: JointReading, began_s: float) -> None:
        """Compare an accepted reading with what the servos held while they were asked."""
        self.readings += 1
        for place, (joint, motor) in enumerate(self._motors):
            taken = tuple(float(column[place]) for column in _columns(reading))
            said = [
                decoded(joint, motor, data, error)
                for answers in self._said
                for data, error in answers.get(motor.id, ())
            ]
            in_time = began_s <= reading.t_s <= self._bus.now_s
            if not in_time or not any(np.allclose(taken, one, rtol=0, atol=1e-6) for one in said):
                self.found.wrong_readings += 1
                self.found.note(f"{self._bus.now_s:.3f} s: {joint}: read {taken}, said {said}")
                return

    def arm_let_down(self, unconfirmed: tuple[int, ...]) -> None:
        """Look for servos that still push: whether or not they were named as `unconfirmed`."""
        pushing = [servo for servo in self._bus.servos if servo.value(registers.TORQUE_ENABLE)]
        self._named = set(unconfirmed)
        unnamed = [servo.place for servo in pushing if servo.place not in self._named]
        if unnamed:
            self.found.torque_left_on += 1
            self.found.note(f"{self._bus.now_s:.3f} s: torque left on in servos {unnamed}")
        self.pushing_and_named += len(pushing) - len(unnamed)

    def arm_refused(self, refusal: str) -> None:
        """See that an arm which was refused torque has none, but for servos that are named."""
        named = {int(number) for number in re.findall(r"\d+", refusal.partition(":")[0])}
        self.arm_let_down(tuple(named | self._named))

    def _note_answers(self, frame: Frame) -> None:
        address, length = frame.params[0], frame.params[1]
        if address > _BLOCK or address + length < _BLOCK + _BLOCK_BYTES:
            return
        answers: dict[int, list[tuple[bytes, int]]] = {}
        for servo in self._bus.servos:
            said = (servo.read(_BLOCK, _BLOCK_BYTES), servo.status_bits)
            answers.setdefault(servo.servo_id, []).append(said)
        self._said.append(answers)

    def _note_positions(self) -> None:
        now_s = self._bus.now_s
        present = [_present_ticks(servo) for servo in self._bus.servos]
        self._been.append((now_s, present))
        while self._been[0][0] < now_s - self._window_s:
            self._been.popleft()

    def _not_from_the_gate(self, frame: Frame) -> list[str]:
        """Name goals that are not what the gate let through last, once."""
        goals = {
            servo_id: registers.GOAL_POSITION.decode(data[_GOAL - address :])
            for servo_id, address, data in _writes(frame)
            if address <= _GOAL < address + len(data) - 1
        }
        if not goals:
            return []
        self.commands += 1
        allowed, self._allowed = self._allowed, None
        if allowed is None:
            return [f"goals {goals} that the gate did not let through"]
        problems = []
        for place, (joint, motor) in enumerate(self._motors):
            goal = goals.get(motor.id)
            if goal is None:
                continue
            meant = ticks_meant(joint, motor, float(allowed[place]))
            if abs(goal - meant) > TICKS_APART:
                problems.append(f"{joint}: goal tick {goal}, the gate let {meant:.2f} through")
        return problems

    def _changed(self, place: int, servo: EmulatedServo) -> list[str]:
        """Name a goal further from where the joint has just been than its lead allows.

        New goals, and those that are there when torque comes on; also torque that comes on with
        more of it than the profile allows.
        """
        (had_torque, old_goal), (has_torque, goal) = self._before[place], _torque_and_goal(servo)
        problems = []
        if has_torque and not had_torque:
            limit, allowed = servo.value(registers.TORQUE_LIMIT), self._torque_limits[place]
            if limit > allowed:
                problems.append(
                    f"servo {servo.place} gets torque with a limit of {limit} per mille, allowed "
                    f"{allowed}"
                )
        if has_torque and (goal != old_goal or not had_torque):
            been = [present[place] for _, present in self._been]
            far = max(min(been) - goal, goal - max(been), 0)
            if far > self._lead_ticks[place] + TICKS_APART:
                problems.append(
                    f"servo {servo.place}: goal tick {goal}, {far} from where it was, allowed "
                    f"{self._lead_ticks[place]:.0f}"
                )
        return problems


def decoded(
    joint: str, motor: MotorCalibration, data: bytes, error: int
) -> tuple[float, float, float, float, float, float, float]:
    """Return position, velocity, load, mA, V, C and fault bits of registers 56..70."""
    ticks, speed, duty, volts, celsius, _, bits, _, _, current = _SAID.unpack(data)
    ticks, speed, current = _signed(ticks, 15), _signed(speed, 15), _signed(current, 15)
    if joint == "gripper":
        span = motor.range_max - motor.range_min
        position = (min(max(ticks, motor.range_min), motor.range_max) - motor.range_min) / span
        position, velocity = 100.0 * position, 100.0 * speed / span
    else:
        middle = (motor.range_min + motor.range_max) / 2
        position, velocity = (ticks - middle) * 360.0 / 4095.0, speed * 360.0 / 4095.0
    return (
        position,
        velocity,
        _signed(duty, 10) / 1000.0,
        current * 6.5,
        volts / 10.0,
        float(celsius),
        float(bits | error),
    )


def ticks_meant(joint: str, motor: MotorCalibration, position: float) -> float:
    """Return where a position is in ticks, uncut, held to the calibrated range."""
    low, high = motor.range_min, motor.range_max
    if joint == "gripper":
        ticks = low + position / 100.0 * (high - low)
    else:
        ticks = (low + high) / 2 + position * 4095.0 / 360.0
    return min(max(ticks, low), high)


def max_lead_ticks(max_lead: float, is_gripper: bool, motor: MotorCalibration) -> float:
    """Return a lead limit in ticks."""
    if is_gripper:
        return max_lead / 100.0 * (motor.range_max - motor.range_min)
    return max_lead * 4095.0 / 360.0


def _columns(reading: JointReading) -> tuple[np.ndarray, ...]:
    return (
        reading.positions,
        reading.velocities,
        reading.loads,
        reading.currents_ma,
        reading.voltages_v,
        reading.temperatures_c,
        reading.status,
    )


def _writes(frame: Frame) -> list[tuple[int, int, bytes]]:
    """Return (servo id, address, data) of every register write in a frame."""
    params = frame.params
    if frame.code in (Instruction.WRITE, Instruction.REG_WRITE):
        return [(frame.servo_id, params[0], params[1:])]
    if frame.code == Instruction.SYNC_WRITE:
        address, length = params[0], params[1]
        return [
            (params[start], address, params[start + 1 : start + 1 + length])
            for start in range(2, len(params), length + 1)
        ]
    return []


def _torque_and_goal(servo: EmulatedServo) -> tuple[bool, int]:
    return bool(servo.value(registers.TORQUE_ENABLE)), servo.value(registers.GOAL_POSITION)


def _present_ticks(servo: EmulatedServo) -> int:
    register = registers.PRESENT_POSITION
    return register.decode(servo.read(register.address, register.size))


def _signed(value: int, sign_bit: int) -> int:
    size = value & ((1 << sign_bit) - 1)
    return -size if value >> sign_bit & 1 else size
