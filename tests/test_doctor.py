"""What the doctor finds at an emulated arm, what it mends, and that it does nothing else."""

import os

import pytest
from emulated_arm import writes
from scripted_console import ScriptedConsole

from firmware_bridge import doctor_command, registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import MotorCalibration
from firmware_bridge.doctor import Doctor
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.memory_transport import MemoryTransport
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import PortError
from firmware_bridge.findings import Level
from firmware_bridge.line_checkup import check_replies
from firmware_bridge.line_probe import ReplyCount
from firmware_bridge.port_checkup import check_latency, check_port

# A terminal that nobody serves, in the place of a port.
PORT = os.ttyname(os.openpty()[1])
EVERYBODY = (
    "servos 1 (shoulder_pan), 2 (shoulder_lift), 3 (elbow_flex), 4 (wrist_flex), 5 (wrist_roll), "
    "6 (gripper)"
)
NAMES = dict(enumerate(default_calibration(), start=1))


class Practice:
    """A doctor with an emulated patient."""

    def __init__(
        self, faults=None, ids=None, calibration=True, echo=False, reads=4, start_deg=None
    ):
        self.servos = EmulatedBus(RotorPlant(6, start_deg=start_deg), ids, faults)
        self.transports = []
        self.echo = echo
        if calibration is True:
            calibration = default_calibration()
        self.doctor = Doctor(self.open_at, calibration=calibration, echo=echo, reads=reads)

    def open_at(self, baud_rate):
        transport = MemoryTransport(self.servos, baud_rate)
        self.transports.append(transport)
        return Bus(transport, clock=transport.clock, echo=self.echo)

    def set(self, servo_id, register, value):
        """Set a register as another program might have left it."""
        servo = next(servo for servo in self.servos.servos if servo.servo_id == servo_id)
        if register.access is not registers.Access.RAM:
            servo.restore_eeprom({register: value})
        else:
            servo.write(register.address, register.encode(value))
        self.servos.advance(0.002)

    def value(self, servo_id, register):
        return self.servos.servos[servo_id - 1].value(register)

    def examine(self):
        return list(self.doctor.examine(PORT))

    def lines(self):
        return [finding.line for finding in self.examine() if finding.level is not Level.OK]

    def mend(self, agreed=lambda what: True):
        said = []
        made = self.doctor.mend(self.examine(), agreed, said.append)
        return made, said

    def written(self):
        return [write for transport in self.transports for write in writes(transport)]


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


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ({1, 2, 3, 4, 5, 6}, "check the power supply, its switch and the adapter's cable"),
        ({4, 5, 6}, "check the cable between servos 3 and 4, and its plugs"),
        ({6}, "check the cable between servos 5 and 6, and its plugs"),
        ({3}, "check its plugs, and that its LED is lit"),
    ],
)
def test_missing_servos_say_where_in_the_chain_to_look(missing, remedy):
    lines = Practice(Faults(missing=frozenset(missing))).lines()
    assert len(lines) == 1
    assert lines[0].startswith("fail  bus: no answer from servo ")
    assert lines[0].endswith(remedy)


def test_a_servo_at_another_rate_is_found_there():
    practice = Practice()
    practice.set(5, registers.BAUD_RATE, 1)
    line = practice.lines()[0]
    assert "fail  servo 5 (wrist_roll): answers at 500000 baud, not at 1000000" in line
    assert "molmoact-arm setup --only --joint wrist_roll" in line


def test_a_servo_with_another_id_is_named_in_place_of_the_missing_one():
    lines = Practice(ids=[1, 2, 9, 4, 5, 6]).lines()
    assert "warn  bus: servo 9 is not one of the arm's; unplug it, or run setup for it" in lines
    (failure,) = [line for line in lines if line.startswith("fail")]
    assert "no answer from servo 3 (elbow_flex); servo 9 answers instead" in failure


def test_two_servos_with_one_id_are_a_clash():
    lines = Practice(ids=[1, 2, 2, 4, 5, 6], reads=20, start_deg=range(6)).lines()
    assert any("no answer from servo 3" in line for line in lines)
    clash = [line for line in lines if "two servos may have id 2" in line]
    assert len(clash) == 1
    assert clash[0].startswith("fail  servo 2 (shoulder_lift): ")


@pytest.mark.parametrize(
    ("bad_ids", "remedy"),
    [
        ((4, 5, 6), "check the cable between servos 3 and 4, and its plugs"),
        ((6,), "check the cable between servos 5 and 6, and its plugs"),
        ((2,), "check its plugs, and that its LED is lit"),
        ((1, 2, 3, 4, 5, 6), "check the adapter's cable to the first servo and the power supply"),
    ],
)
def test_lost_replies_say_which_cable_is_loose(bad_ids, remedy):
    good, bad = ReplyCount(60, 60, 0, 0, 0), ReplyCount(60, 42, 18, 0, 0)
    counts = {servo_id: bad if servo_id in bad_ids else good for servo_id in NAMES}
    findings = check_replies(counts, NAMES)
    assert [finding.level for finding in findings] == [Level.FAIL] * len(bad_ids)
    assert {finding.remedy for finding in findings} == {remedy}


def test_a_loose_plug_shows_in_the_readings():
    rule = ReplyFault("drop", ids=frozenset({5, 6}), probability=0.2, after=10)
    lines = Practice(Faults(replies=(rule,), seed=1), reads=60).lines()
    assert any("servo 5 (wrist_roll): " in line and "lost" in line for line in lines)
    assert any("check the cable between servos 4 and 5" in line for line in lines)


def test_a_reply_lost_now_and_then_only_warns():
    (finding,) = check_replies({1: ReplyCount(100, 97, 3, 0, 0)}, {1: "shoulder_pan"})
    assert finding.level is Level.WARN
    assert "3 of 100 replies bad (3 lost, 0 damaged, 0 doubled)" in finding.line


@pytest.mark.parametrize(("adapter", "told"), [(True, False), (False, True)])
def test_an_echo_other_than_said_ends_the_check_up(adapter, told):
    findings = Practice(Faults(echo=adapter), echo=told).examine()
    assert findings[-1].where == "adapter"
    assert findings[-1].level is Level.FAIL
    assert ("give --echo" in findings[-1].line) == adapter


def test_an_echo_that_was_said_is_no_finding():
    assert Practice(Faults(echo=True), echo=True).lines() == []


def test_an_arm_without_ranges_is_sent_to_be_calibrated():
    practice = Practice(calibration=None)
    assert practice.lines() == []
    for servo_id in (1, 2):
        practice.set(servo_id, registers.MIN_POSITION_LIMIT, 0)
        practice.set(servo_id, registers.MAX_POSITION_LIMIT, 4095)
    assert practice.lines() == [
        "fail  calibration: none in servo 1 (shoulder_pan), servo 2 (shoulder_lift); "
        "run 'molmoact-arm calibrate'"
    ]


def test_a_joint_outside_its_range_is_said():
    calibration = dict(default_calibration())
    calibration["elbow_flex"] = MotorCalibration(3, 0, 0, 2600, 3150)
    practice = Practice(calibration=calibration)
    practice.set(3, registers.MIN_POSITION_LIMIT, 2600)
    (line,) = practice.lines()
    assert "warn  servo 3 (elbow_flex): stands 49 deg outside its range" in line


def test_a_port_that_is_lost_meanwhile_is_a_finding():
    practice = Practice()

    def gone(baud_rate):
        raise PortError(f"{PORT}: port lost (gone); check the USB cable and power")

    practice.doctor._open_at = gone
    findings = practice.examine()
    assert findings[-1].line.startswith(f"fail  port {PORT}: port lost (gone)")


@pytest.mark.parametrize("kind", ["absent", "file", "free"])
def test_ports_are_looked_at_before_they_are_opened(tmp_path, kind):
    path = tmp_path / "tty"
    if kind == "file":
        path.touch()
    finding = check_port(PORT if kind == "free" else str(path))
    texts = {"absent": "no such file", "file": "is not a serial port", "free": "there, and open"}
    assert texts[kind] in finding.line
    assert (finding.level is Level.OK) == (kind == "free")


def test_a_port_of_others_says_which_group_to_join(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("firmware_bridge.port_checkup.permission_remedy", lambda port: "join")
    assert check_port(PORT).line.endswith("permission denied; join")


def test_a_held_port_names_the_holder(monkeypatch):
    monkeypatch.setattr("firmware_bridge.port_checkup.holder", lambda port: (42, "python"))
    line = check_port("/dev/null").line
    assert "held by process 42 (python); if it drives the arm, 'molmoact-arm stop --port" in line


@pytest.mark.parametrize(("waits_ms", "level"), [(None, None), (1, Level.OK), (16, Level.WARN)])
def test_an_ftdi_adapter_that_waits_is_told_how_not_to(tmp_path, waits_ms, level):
    path = tmp_path / "bus/usb-serial/devices/ttyUSB0/latency_timer"
    path.parent.mkdir(parents=True)
    if waits_ms:
        path.write_text(f"{waits_ms}\n")
    finding = check_latency("/dev/ttyUSB0", tmp_path)
    assert (finding and finding.level) == level
    if level is Level.WARN:
        assert f"run 'echo 1 | sudo tee {path}'" in finding.line


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
