"""What the doctor finds on the wire and at the port of an emulated arm."""

import pytest
from doctor_practice import NAMES, PORT, Practice

from firmware_bridge import registers
from firmware_bridge.calibration import MotorCalibration
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Faults, ReplyFault
from firmware_bridge.errors import PortError
from firmware_bridge.findings import Level
from firmware_bridge.line_checkup import check_replies
from firmware_bridge.line_probe import ReplyCount
from firmware_bridge.port_checkup import check_latency, check_port


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
