"""What can be wrong with an arm that works: its ranges, and what the last program left behind."""

from __future__ import annotations

from collections.abc import Iterator

from firmware_bridge import registers
from firmware_bridge.calibration import DEGREES_PER_TICK, MAX_TICK, Calibration
from firmware_bridge.findings import Finding, fail, ok, or_ok, warn
from firmware_bridge.mends import forget_goal, set_register
from firmware_bridge.registers import TICKS_PER_TURN
from firmware_bridge.servo_checkup import Names, States, who
from firmware_bridge.servo_state import ServoState

STALE_GOAL_DEG = 5.0
SLOW_TICKS_S, SLOW_ACCELERATION = 500, 10
FREE_JOINT = "wrist_roll"


def check_ranges(states: States, names: Names, calibration: Calibration | None) -> list[Finding]:
    """Compare offsets and limits with a calibration; None: see whether there is any at all."""
    if calibration is None:
        return _uncalibrated(states, names)
    findings = []
    motors = {motor.id: motor for motor in calibration.values()}
    for state in states:
        motor = motors.get(state.servo_id)
        if motor is None:
            continue
        wanted = (
            (registers.HOMING_OFFSET, motor.homing_offset),
            (registers.MIN_POSITION_LIMIT, motor.range_min),
            (registers.MAX_POSITION_LIMIT, motor.range_max),
        )
        differing = [
            f"{register.name} is {state[register]}, {value} in the file"
            for register, value in wanted
            if state[register] != value
        ]
        if differing:
            findings.append(
                fail(
                    who(state, names),
                    ", ".join(differing),
                    "the file is another arm's: calibrate, or write it with calibrate --apply",
                )
            )
    return [
        *or_ok(findings, "calibration", "servos and file agree"),
        *_outside(states, names),
    ]


def check_memory(states: States, names: Names) -> list[Finding]:
    """Judge what the last program left in the servos' RAM."""
    return or_ok(
        (finding for state in states for finding in _left_over(state, names)),
        "torque",
        "off everywhere, and no goal waits",
    )


def _uncalibrated(states: States, names: Names) -> list[Finding]:
    free = [
        who(state, names)
        for state in states
        if state[registers.MIN_POSITION_LIMIT] == 0
        and state[registers.MAX_POSITION_LIMIT] in (0, MAX_TICK)
        and names[state.servo_id] != FREE_JOINT
    ]
    if free:
        return [fail("calibration", f"none in {', '.join(free)}", "run 'molmoact-arm calibrate'")]
    return [
        ok("calibration", "servos have ranges; no file was given to compare them with"),
        *_outside(states, names),
    ]


def _outside(states: States, names: Names) -> Iterator[Finding]:
    for state in states:
        low, high = state[registers.MIN_POSITION_LIMIT], state[registers.MAX_POSITION_LIMIT]
        present = state[registers.PRESENT_POSITION]
        if low < high and not low <= present <= high:
            beyond = min(abs(present - low), abs(present - high)) * DEGREES_PER_TICK
            yield warn(
                who(state, names),
                f"stands {beyond:.0f} deg outside its range",
                "move it inside by hand; if it cannot go there, calibrate again",
            )


def _left_over(state: ServoState, names: Names) -> Iterator[Finding]:
    name = who(state, names)
    if state.torque_on:
        yield warn(name, "torque is on and no program drives it", "run 'molmoact-arm stop'")
    else:
        yield from _waiting(state, name)
    if state[registers.LOCK] == 0:
        yield warn(
            name,
            "its memory is unlocked",
            "doctor --fix locks it",
            set_register(state.servo_id, registers.LOCK, 0, 1),
        )
    for register, slow in (
        (registers.GOAL_VELOCITY, 0 < abs(state[registers.GOAL_VELOCITY]) < SLOW_TICKS_S),
        (registers.GOAL_TIME, state[registers.GOAL_TIME] != 0),
        (registers.ACCELERATION, 0 < state[registers.ACCELERATION] < SLOW_ACCELERATION),
    ):
        if slow:
            yield warn(
                name,
                f"{register.name} was left at {state[register]}: goals are followed slowly or late",
                "doctor --fix sets it to 0",
                set_register(state.servo_id, register, state[register], 0),
            )


def _waiting(state: ServoState, name: str) -> Iterator[Finding]:
    goal, present = state[registers.GOAL_POSITION], state[registers.PRESENT_POSITION]
    half = TICKS_PER_TURN // 2
    away_deg = abs((goal - present + half) % TICKS_PER_TURN - half) * DEGREES_PER_TICK
    if away_deg > STALE_GOAL_DEG:
        yield warn(
            name,
            f"its goal is {away_deg:.0f} deg away; a program that only switches torque on jumps",
            "doctor --fix makes its goal where it stands",
            forget_goal(state.servo_id, goal, present),
        )
    usual = state[registers.MAX_TORQUE_LIMIT]
    if state[registers.TORQUE_LIMIT] == 0 and usual:
        yield warn(
            name,
            "torque_limit is 0, as a soft stop leaves it; LeRobot does not raise it",
            "doctor --fix raises it, power off and on does too",
            set_register(state.servo_id, registers.TORQUE_LIMIT, 0, usual),
        )
