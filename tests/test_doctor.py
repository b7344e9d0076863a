"""What the doctor finds at an emulated arm, what it mends, and that it does nothing else."""

import pytest
from doctor_practice import EVERYBODY, PORT, Practice
from scripted_console import ScriptedConsole

from firmware_bridge import doctor_command, registers
from firmware_bridge.emulator.faults import Event, Faults, ServoFaults
from firmware_bridge.findings import Level


def test_a_healthy_arm_is_fit_and_untouched():
    practice = Practice()
    findings = practice.examine()
    assert [finding.where for finding in findings if finding.level is not Level.OK] == []
    assert len(findings) == 11
    assert practice.written() == []


@pytest.mark.parametrize(
    ("servo_id", "register", "value", "line"),
    [
        (3, registers.MODEL_NUMBER, 2825, "fail  servo 3 (elbow_flex): is an sts3250 (2825)"),
        (2, registers.FIRMWARE_MINOR_VERSION, 9, "firmware: differs: 3.10 in servo 1 3 4 5 6, 3.9"),
        (4, registers.OPERATING_MODE, 1, "fail  servo 4 (wrist_flex): is in mode 1, not position"),
        (4, registers.PHASE, 28, "fail  servo 4 (wrist_flex): counts turns (phase 28)"),
        (4, registers.PHASE, 0, "fail  servo 4 (wrist_flex): phase is 0, factory 12"),
        (4, registers.PHASE, 8, "fail  servo 4 (wrist_flex): phase is 8, factory 12"),
        (1, registers.RETURN_DELAY_TIME, 250, "warn  servo 1 (shoulder_pan): return_delay_time"),
        (5, registers.P_COEFFICIENT, 32, "fail  servo 5 (wrist_roll): p_coefficient is 32"),
        (5, registers.I_COEFFICIENT, 4, "warn  servo 5 (wrist_roll): i_coefficient is 4"),
        (6, registers.OVERLOAD_TORQUE, 80, "warn  servo 6 (gripper): overload_torque is 80"),
        (6, registers.MAX_TORQUE_LIMIT, 1000, "warn  servo 6 (gripper): max_torque_limit is 1000"),
        (2, registers.MAX_TORQUE_LIMIT, 50, "warn  servo 2 (shoulder_lift): max_torque_limit is"),
        (2, registers.OVERLOAD_TORQUE, 25, "warn  servo 2 (shoulder_lift): overload_torque is 25"),
        (2, registers.PROTECTION_TIME, 0, "warn  servo 2 (shoulder_lift): protection_time is 0"),
        (2, registers.PROTECTION_CURRENT, 0, "warn  servo 2 (shoulder_lift): protection_current"),
        (2, registers.MAX_TEMPERATURE_LIMIT, 100, "warn  servo 2 (shoulder_lift): max_temperature"),
        (2, registers.UNLOADING_CONDITION, 0, "warn  servo 2 (shoulder_lift): unloading_condition"),
        (1, registers.HOMING_OFFSET, 40, "fail  servo 1 (shoulder_pan): homing_offset is 40, 0 in"),
        (1, registers.MAX_POSITION_LIMIT, 4000, "max_position_limit is 4000, 3300 in the file"),
        (3, registers.LOCK, 0, "warn  servo 3 (elbow_flex): its memory is unlocked"),
        (
            3,
            registers.GOAL_VELOCITY,
            60,
            "warn  servo 3 (elbow_flex): goal_velocity was left at 60",
        ),
        (3, registers.GOAL_VELOCITY, -60, "goal_velocity was left at -60"),
        (3, registers.GOAL_TIME, 500, "goal_time was left at 500"),
        (3, registers.ACCELERATION, 2, "acceleration was left at 2: goals are followed slowly"),
        (3, registers.TORQUE_ENABLE, 1, "warn  servo 3 (elbow_flex): torque is on and no program"),
        (3, registers.TORQUE_LIMIT, 0, "warn  servo 3 (elbow_flex): torque_limit is 0, as a soft"),
    ],
)
def test_every_odd_register_is_one_line(servo_id, register, value, line):
    practice = Practice()
    practice.set(servo_id, register, value)
    lines = practice.lines()
    assert len(lines) == 1, lines
    assert line in lines[0]


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (registers.RETURN_DELAY_TIME, 250),
        (registers.P_COEFFICIENT, 32),
        (registers.I_COEFFICIENT, 4),
        (registers.PHASE, 28),
        (registers.OPERATING_MODE, 3),
        (registers.LOCK, 0),
        (registers.GOAL_VELOCITY, 60),
        (registers.GOAL_TIME, 500),
        (registers.ACCELERATION, 2),
        (registers.TORQUE_LIMIT, 0),
    ],
)
def test_what_says_fix_is_mended_and_stays_so(register, value):
    practice = Practice()
    practice.set(2, register, value)
    made, said = practice.mend()
    assert (made, said) == (1, [])
    assert practice.lines() == []
    assert practice.value(2, registers.TORQUE_ENABLE) == 0
    assert practice.value(2, registers.LOCK) == 1
    if register.access is registers.Access.EEPROM:
        practice.servos.power_cycle()
        practice.servos.advance(0.002)
        assert practice.lines() == []


def test_a_gripper_set_like_the_other_joints_gets_lerobots_gentler_limits():
    practice = Practice()
    for register, value in (
        (registers.MAX_TORQUE_LIMIT, 1000),
        (registers.OVERLOAD_TORQUE, 80),
        (registers.PROTECTION_CURRENT, 310),
    ):
        practice.set(6, register, value)
    assert practice.mend()[0] == 3
    assert practice.value(6, registers.MAX_TORQUE_LIMIT) == 500
    assert practice.value(6, registers.OVERLOAD_TORQUE) == 25
    assert practice.value(6, registers.PROTECTION_CURRENT) == 250


def test_what_is_wrong_with_several_servos_is_said_and_asked_once():
    practice = Practice()
    for servo_id in range(1, 7):
        practice.set(servo_id, registers.P_COEFFICIENT, 32)
        practice.set(servo_id, registers.TORQUE_LIMIT, 0)
    lines = practice.lines()
    assert [line.split(": ")[0] for line in lines] == [f"fail  {EVERYBODY}", f"warn  {EVERYBODY}"]
    asked = []
    made, _ = practice.mend(lambda what: not asked.append(what))
    assert made == 12
    assert asked == [
        f"{EVERYBODY}: p_coefficient 32 -> 16",
        f"{EVERYBODY}: torque_limit 0 -> 1000, torque_limit 0 -> 500",
    ]
    assert practice.lines() == []


def test_a_servo_that_acknowledges_nothing_is_found_and_mended():
    practice = Practice(Faults(servos={4: ServoFaults(response_status_level=0)}))
    assert "fail  servo 4 (wrist_flex): acknowledges no writes" in practice.lines()[0]
    assert practice.mend() == (1, [])
    assert practice.lines() == []


def test_a_stale_goal_is_forgotten_without_a_push():
    practice = Practice()
    practice.set(2, registers.GOAL_POSITION, 1500)
    practice.set(2, registers.TORQUE_ENABLE, 0)
    practice.servos.advance(0.5)
    before = practice.open_at(1_000_000).read(2, registers.PRESENT_POSITION)
    (line,) = practice.lines()
    assert "shoulder_lift): its goal is " in line
    assert practice.mend() == (1, [])
    order = [address for address, servo_id, _ in practice.written() if servo_id == 2]
    assert order == [48, 42, 40, 48]
    assert practice.lines() == []
    practice.servos.advance(1.0)
    assert practice.value(2, registers.TORQUE_ENABLE) == 0
    assert practice.value(2, registers.TORQUE_LIMIT) == 1000
    assert abs(practice.open_at(1_000_000).read(2, registers.PRESENT_POSITION) - before) <= 1


def test_nothing_is_mended_while_a_servo_holds():
    practice = Practice()
    practice.set(2, registers.P_COEFFICIENT, 32)
    practice.set(2, registers.GOAL_POSITION, 1900)
    made, said = practice.mend()
    assert made == 0
    assert "shoulder_lift): torque is on; 'molmoact-arm stop' first" in said[0]
    assert practice.value(2, registers.P_COEFFICIENT) == 32


def test_only_what_was_agreed_to_is_mended():
    practice = Practice()
    practice.set(2, registers.P_COEFFICIENT, 32)
    practice.set(3, registers.P_COEFFICIENT, 30)
    asked = []

    def agreed(what):
        asked.append(what)
        return "servo 3" in what

    assert practice.mend(agreed)[0] == 1
    assert asked[0] == "servo 2 (shoulder_lift): p_coefficient 32 -> 16"
    assert practice.value(2, registers.P_COEFFICIENT) == 32
    assert practice.value(3, registers.P_COEFFICIENT) == 16


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (1, "reports voltage; check the supply's voltage"),
        (2, "reports encoder; its encoder does not read; replace"),
        (4, "reports temperature; let it cool down"),
        (8, "reports current; free the joint"),
        (32, "reports overload; take the load off the joint, then switch the arm's power off"),
    ],
)
def test_fault_bits_come_with_their_remedy(bits, text):
    (line,) = Practice(Faults(servos={3: ServoFaults(status_bits=bits)})).lines()
    assert line.startswith(f"fail  servo 3 (elbow_flex): {text}")


def test_twelve_volts_on_servos_for_7_4_is_a_failure():
    lines = Practice(Faults(build="7.4v", supply_v=12.0)).lines()
    assert len(lines) == 2
    assert lines[0].startswith(f"fail  {EVERYBODY}: supply 12.0 V, its 7.4 V build takes 8 V")
    assert lines[1].startswith(f"fail  {EVERYBODY}: reports voltage")


@pytest.mark.parametrize(
    ("build", "supply_v", "text"),
    [
        ("12v", 9.5, "supply 9.5 V, its 12 V build needs 10 V; check the supply"),
        ("12v", 10.5, "supply 10.5 V is low for its 12 V build"),
        ("12v", 11.0, None),
        ("7.4v", 4.6, "supply 4.6 V is low for its 7.4 V build"),
        ("7.4v", 5.0, None),
        ("7.4v", 7.4, None),
    ],
)
def test_a_supply_is_judged_by_the_build(build, supply_v, text):
    lines = Practice(Faults(build=build, supply_v=supply_v)).lines()
    assert len(lines) == (text is not None), lines
    assert all(f"{EVERYBODY}: {text}" in line for line in lines)


@pytest.mark.parametrize(("celsius", "level"), [(49, None), (50, "warn"), (56, "fail")])
def test_temperatures_are_judged(celsius, level):
    practice = Practice()
    practice.servos.inject(Event("hot", ids=frozenset({2}), value=celsius))
    practice.servos.advance(0.002)
    lines = practice.lines()
    assert len(lines) == (level is not None)
    if level:
        assert lines[0].startswith(f"{level:<5} servo 2 (shoulder_lift): temperature {celsius} C")


def test_the_report_ends_with_a_verdict():
    practice, console = Practice(), ScriptedConsole()
    doctor_command.report(console, practice.doctor, PORT)
    assert console.lines[-1] == "fit to be driven: 0 fail, 0 warn"
    practice.set(2, registers.P_COEFFICIENT, 32)
    practice.set(2, registers.RETURN_DELAY_TIME, 250)
    findings = doctor_command.report(console, practice.doctor, PORT)
    assert console.lines[-1] == "not fit to be driven: 1 fail, 1 warn"
    console = ScriptedConsole(["n", "y"])
    assert doctor_command.mend(console, practice.doctor, findings, ask=True)
    assert console.prompts[0] == ("mend servo 2 (shoulder_lift): return_delay_time 250 -> 0? [y/N]")
    assert practice.value(2, registers.RETURN_DELAY_TIME) == 250
    assert practice.value(2, registers.P_COEFFICIENT) == 16


def test_nothing_to_mend_is_said():
    practice, console = Practice(Faults(missing=frozenset({1}))), ScriptedConsole()
    findings = doctor_command.report(console, practice.doctor, PORT)
    assert not doctor_command.mend(console, practice.doctor, findings, ask=False)
    assert console.lines[-1] == "nothing of it can be mended from here"
