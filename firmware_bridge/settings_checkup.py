"""What can be wrong with the settings that servos keep without power, ranges aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.arming import POSITION_MODE
from firmware_bridge.calibration import GRIPPER, MAX_TICK
from firmware_bridge.findings import Finding, Mend, fail, or_ok, warn
from firmware_bridge.mends import answer_writes, set_register
from firmware_bridge.packets import StatusBit
from firmware_bridge.registers import Register
from firmware_bridge.servo_checkup import Names, States, who
from firmware_bridge.servo_state import ServoState

MULTI_TURN_BIT, SPEED_0_IS_MAX_BIT, FINE_SPEED_BIT = 0x10, 0x08, 0x04


@dataclass(frozen=True, slots=True)
class Setting:
    """A register with the values an SO-100/SO-101 follower runs on, and what else would do.

    `mend_to` is what a mend writes: LeRobot's own value; None where that is not ours to decide.
    """

    register: Register
    low: int
    high: int
    why: str
    mend_to: int | None = None
    fatal: bool = False


# Factory values unless LeRobot writes another to a follower.
SETTINGS = (
    Setting(registers.RETURN_DELAY_TIME, 0, 0, "replies start late", 0),
    Setting(
        registers.P_COEFFICIENT,
        1,
        16,
        "a blocked joint pushes harder than the limits are reckoned for",
        16,
        fatal=True,
    ),
    Setting(registers.I_COEFFICIENT, 0, 0, "a blocked joint pushes ever harder", 0),
    Setting(registers.MAX_TORQUE_LIMIT, 300, 1000, "the joint may not carry the arm"),
    Setting(registers.PROTECTIVE_TORQUE, 1, 40, "an overloaded joint goes on pushing"),
    Setting(registers.PROTECTION_TIME, 20, 250, "overload is noticed too early or too late"),
    Setting(registers.OVERLOAD_TORQUE, 60, 90, "overload trips on ordinary moves, or not in time"),
    Setting(registers.PROTECTION_CURRENT, 100, 600, "over-current is not noticed, or too early"),
    Setting(registers.MAX_TEMPERATURE_LIMIT, 50, 80, "it is not protected from heat"),
)
GRIPPER_SETTINGS = (
    Setting(registers.MAX_TORQUE_LIMIT, 100, 500, "a closed gripper burns on an object", 500),
    Setting(registers.OVERLOAD_TORQUE, 10, 40, "a closed gripper burns on an object", 25),
    Setting(registers.PROTECTION_CURRENT, 50, 250, "a closed gripper burns on an object", 250),
)
_NEEDED_UNLOADING = StatusBit.TEMPERATURE | StatusBit.OVERLOAD


def check_settings(states: States, names: Names) -> list[Finding]:
    """Judge what the servos keep without power, the ranges aside."""
    findings = [finding for state in states for finding in _settings(state, names)]
    return or_ok(findings, "settings", "as LeRobot leaves a follower")


def _settings(state: ServoState, names: Names) -> Iterator[Finding]:
    name = who(state, names)
    if state[registers.RESPONSE_STATUS_LEVEL] == 0:
        yield fail(
            name,
            "acknowledges no writes (response_status_level 0)",
            "doctor --fix sets it to 1",
            answer_writes(state.servo_id),
        )
    yield from _phase_and_mode(state, name)
    special = GRIPPER_SETTINGS if names[state.servo_id] == GRIPPER else ()
    overruled = {setting.register for setting in special}
    for setting in (*(s for s in SETTINGS if s.register not in overruled), *special):
        value = state[setting.register]
        if setting.low <= value <= setting.high:
            continue
        level = fail if setting.fatal else warn
        usual = f"{setting.low}..{setting.high}" if setting.low < setting.high else setting.low
        yield level(
            name,
            f"{setting.register.name} is {value}, usual is {usual}: {setting.why}",
            "set it with Feetech's FD program"
            if setting.mend_to is None
            else f"doctor --fix sets it to {setting.mend_to}",
            _mend(state, setting.register, setting.mend_to),
        )
    unloading = state[registers.UNLOADING_CONDITION]
    if unloading & _NEEDED_UNLOADING != _NEEDED_UNLOADING:
        yield warn(
            name,
            f"unloading_condition is {unloading}, factory 44: it does not protect itself from heat "
            "and overload",
            "set it with Feetech's FD program",
        )


def _phase_and_mode(state: ServoState, name: str) -> Iterator[Finding]:
    phase, mode = state[registers.PHASE], state[registers.OPERATING_MODE]
    if phase & MULTI_TURN_BIT:
        yield fail(
            name,
            f"counts turns (phase {phase}), positions leave 0..{MAX_TICK}",
            "doctor --fix clears bit 4",
            _mend(state, registers.PHASE, phase & ~MULTI_TURN_BIT),
        )
    if not phase & SPEED_0_IS_MAX_BIT or not phase & FINE_SPEED_BIT:
        yield fail(
            name,
            f"phase is {phase}, factory 12: speeds mean something else",
            "set it with Feetech's FD program",
        )
    if mode != POSITION_MODE:
        yield fail(
            name,
            f"is in mode {mode}, not position mode ({POSITION_MODE})",
            "doctor --fix sets it",
            _mend(state, registers.OPERATING_MODE, POSITION_MODE),
        )


def _mend(state: ServoState, register: Register, value: int | None) -> Mend | None:
    if value is None:
        return None
    return set_register(state.servo_id, register, state[register], value)
