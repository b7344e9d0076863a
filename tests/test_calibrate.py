"""`molmoact-arm calibrate`: a person moves the arm, servos and file end up the same."""

import json

import pytest
from calibrating_person import LOW_END, REGISTERS, Person
from emulated_arm import torque_enables
from moved_by_hand import TRAVEL_TICKS

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import (
    JOINTS,
    CalibrationError,
    MotorCalibration,
    position_from_ticks,
)
from firmware_bridge.calibration_files import check_writable, replace_calibration
from firmware_bridge.calibration_session import SWEPT_JOINTS
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Faults, ReplyFault
from firmware_bridge.errors import BusError, ServoFault
from firmware_bridge.port_options import UserError


def expected(low):
    """Return what LeRobot would write: middle pose at 2047, ends as read around it."""
    motors = {}
    for servo_id, joint in enumerate(JOINTS, start=1):
        half = TRAVEL_TICKS[joint] // 2
        middle = (low[joint] + half) % 4096
        ends = (0, 4095) if joint == "wrist_roll" else (2047 - half, 2047 + half)
        motors[joint] = MotorCalibration(servo_id, 0, middle - 2047, *ends)
    return motors


def test_an_ordinary_arm_gets_what_lerobot_would_write(tmp_path):
    person = Person(tmp_path)
    assert person.calibrate() == expected(LOW_END)
    stored = person.stored()
    for joint, motor in expected(LOW_END).items():
        assert stored[joint] == [motor.homing_offset, motor.range_min, motor.range_max]
    assert torque_enables(person.transport) == [0] * 6
    assert "note:" not in person.console.text


@pytest.mark.parametrize("turned", range(0, 4096, 512))
def test_where_the_servo_horns_sit_does_not_matter(tmp_path, turned):
    low = {joint: (ticks + turned) % 4096 for joint, ticks in LOW_END.items()}
    person = Person(tmp_path, low)
    calibration = person.calibrate()
    person.stored()
    for joint in SWEPT_JOINTS:
        motor = calibration[joint]
        assert motor.range_max - motor.range_min == TRAVEL_TICKS[joint]
        for share, position in ((0.0, motor.range_min), (1.0, motor.range_max)):
            person.plant.move(joint, share)
            person.transport.sleep(0.01)
            assert person.bus.read(motor.id, registers.PRESENT_POSITION) == position
        middle = (motor.range_min + motor.range_max) // 2
        assert abs(position_from_ticks(joint, motor, middle)) < (51 if joint == "gripper" else 0.1)


def test_the_offset_the_servo_cannot_hold_is_explained_not_crashed_into(tmp_path):
    low = {**LOW_END, "wrist_roll": 4095 - 1852, "elbow_flex": 4095 - 1102}
    person = Person(tmp_path, low)
    calibration = person.calibrate()
    assert calibration["wrist_roll"].homing_offset == 2047
    assert calibration["elbow_flex"].homing_offset == 2047
    assert person.console.text.count("'Magnitude 2048 exceeds 2047'") == 2
    assert person.stored()["elbow_flex"][0] == 2047


def test_a_calibrated_arm_can_be_calibrated_again(tmp_path):
    person = Person(tmp_path)
    person.servos.servos[2].restore_eeprom(
        {registers.HOMING_OFFSET: 1500, registers.MIN_POSITION_LIMIT: 5}
    )
    assert person.calibrate() == expected(LOW_END)


def test_an_old_file_is_kept_beside_the_new_one(tmp_path):
    person = Person(tmp_path)
    old = json.dumps({"what": "was there"})
    person.path.write_text(old)
    person.calibrate()
    kept = tmp_path / "arm.until-20250102-030405.json"
    assert kept.read_text() == old
    assert f"the calibration from before: {kept}" in person.console.lines


def test_the_memory_is_dumped_before_anything_is_written(tmp_path):
    person = Person(tmp_path)
    person.servos.servos[3].restore_eeprom({registers.PHASE: 12 | 0x10})
    person.calibrate()
    dump = json.loads((tmp_path / "arm.eeprom-20250102-030405.json").read_text())
    assert list(dump) == [str(servo_id) for servo_id in range(1, 7)]
    assert dump["4"]["registers"]["phase"] == 28
    assert len(bytes.fromhex(dump["4"]["bytes"])) == 40
    assert person.servos.servos[3].value(registers.PHASE) == 12
    assert "wrist_flex: counted turns (phase 28), now single turn" in person.console.text


def test_a_position_off_the_scale_is_refused_with_the_reason(tmp_path, monkeypatch):
    person = Person(tmp_path)
    read = Bus.read

    def off_the_scale(bus, servo_id, register, **options):
        if (servo_id, register) == (5, registers.PRESENT_POSITION):
            return 6000
        return read(bus, servo_id, register, **options)

    monkeypatch.setattr(Bus, "read", off_the_scale)
    with pytest.raises(ServoFault, match=r"\(wrist_roll\): reports position 6000, outside 0..4095"):
        person.calibrate()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sweeps": [["shoulder_pan"], [*SWEPT_JOINTS[1:]]]}, "gripper it was not moved"),
        ({"reach": 0.6, "sweeps": [[*SWEPT_JOINTS]] * 2}, "it can do about 220; move it to both"),
        ({"folded": {"elbow_flex": 0.1}, "sweeps": [[*SWEPT_JOINTS]] * 2}, "the other way round"),
        ({"folded": {"gripper": 1.0}, "sweeps": [[*SWEPT_JOINTS]] * 2}, "gripper stands at 100 %"),
    ],
)
def test_a_range_that_looks_wrong_is_swept_again(tmp_path, change, complaint):
    person = Person(tmp_path)
    good = {"reach": person.reach, "folded": person.folded}
    for name, value in change.items():
        setattr(person, name, value)
    ask = person.console.ask

    def ask_again(prompt):
        answer = ask(prompt)
        if "fold the arm" in prompt:
            for name, value in good.items():
                setattr(person, name, value)
        return answer

    person.console.ask = ask_again
    calibration = person.calibrate()
    assert complaint in person.console.text
    for joint in SWEPT_JOINTS:
        assert calibration[joint].range_max - calibration[joint].range_min == TRAVEL_TICKS[joint]


def test_odd_ranges_are_written_when_asked_for_by_name(tmp_path):
    person = Person(tmp_path)
    person.reach = 0.6
    motor = person.calibrate(accept_ranges=True)["shoulder_pan"]
    assert motor.range_max - motor.range_min == pytest.approx(0.6 * 2504, abs=2)
    assert "accepted: shoulder_pan moved 132 deg" in person.console.text


@pytest.mark.parametrize("moment", ["middle of its range", "sweep", "fold the arm", "write this"])
def test_ctrl_c_leaves_servos_and_file_as_they_were(tmp_path, moment):
    person = Person(tmp_path)
    person.servos.servos[3].restore_eeprom({registers.PHASE: 12 | 0x10})
    before = person.stored()
    person.interrupt_at = moment
    with pytest.raises(KeyboardInterrupt):
        person.calibrate()
    assert person.stored() == before
    assert person.servos.servos[3].value(registers.PHASE) == 28
    assert not person.path.exists()
    assert person.console.lines[-1] == "the servos' memory is as it was"


@pytest.mark.parametrize("written", [0, 1, 7, 17])
def test_ctrl_c_between_two_writes_puts_the_first_back(tmp_path, monkeypatch, written):
    person = Person(tmp_path)
    before = person.stored()
    write_eeprom, calls = Bus.write_eeprom, []

    def interrupted(bus, servo_id, register, value):
        if register in REGISTERS:
            calls.append(register)
        if len(calls) == written + 1:
            monkeypatch.setattr(Bus, "write_eeprom", write_eeprom)
            raise KeyboardInterrupt
        return write_eeprom(bus, servo_id, register, value)

    monkeypatch.setattr(Bus, "write_eeprom", interrupted)
    with pytest.raises(KeyboardInterrupt):
        person.calibrate()
    assert person.stored() == before
    assert not person.path.exists()


@pytest.mark.parametrize("register", [registers.LOCK, *REGISTERS])
@pytest.mark.parametrize("sent", [False, True])
def test_ctrl_c_within_a_write_leaves_the_memory_locked(tmp_path, monkeypatch, register, sent):
    person = Person(tmp_path)
    before = person.stored()
    write_bytes = Bus.write_bytes

    def interrupted(bus, servo_id, address, data, **options):
        if (servo_id, address) == (3, register.address):
            monkeypatch.setattr(Bus, "write_bytes", write_bytes)
            if sent:
                write_bytes(bus, servo_id, address, data, **options)
            raise KeyboardInterrupt
        return write_bytes(bus, servo_id, address, data, **options)

    monkeypatch.setattr(Bus, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        person.calibrate()
    assert [servo.value(registers.LOCK) for servo in person.servos.servos] == [1] * 6
    assert person.stored() == before


def test_a_servo_that_goes_silent_while_writing_is_named_as_not_put_back(tmp_path, monkeypatch):
    person = Person(tmp_path)
    write_eeprom = Bus.write_eeprom

    def unplugged(bus, servo_id, register, value):
        if (servo_id, register) == (4, registers.MAX_POSITION_LIMIT):
            person.servos.replace_faults(Faults(missing=frozenset({4})))
        return write_eeprom(bus, servo_id, register, value)

    monkeypatch.setattr(Bus, "write_eeprom", unplugged)
    with pytest.raises(BusError, match="servo 4: no reply"):
        person.calibrate()
    lost = [line for line in person.console.lines if line.startswith("not put back: servo 4")]
    assert any("homing_offset should be 0" in line for line in lost)
    person.servos.replace_faults(Faults())
    assert person.stored()["gripper"] == [0, 1934, 3186]
    assert not person.path.exists()


def test_no_is_no(tmp_path):
    person = Person(tmp_path)
    before = person.stored()
    person.agrees = "n"
    with pytest.raises(UserError, match="the calibration was not written"):
        person.calibrate()
    assert person.stored() == before


def test_a_file_that_cannot_be_written_puts_the_servos_back(tmp_path, monkeypatch):
    person = Person(tmp_path)
    before = person.stored()

    def full(*_):
        raise CalibrationError("disk full")

    monkeypatch.setattr("firmware_bridge.calibrate_command.replace_calibration", full)
    with pytest.raises(CalibrationError):
        person.calibrate()
    assert person.stored() == before


def test_an_arm_that_holds_is_softened_after_asking(tmp_path):
    person = Person(tmp_path)
    person.servos.servos[1].write(registers.GOAL_POSITION.address, b"\x00\x08")
    person.calibrate()
    assert "torque is on at shoulder_lift; the arm will sink" in person.console.lines[0]
    assert person.console.prompts[0].startswith("support the arm")
    assert torque_enables(person.transport) == [0] * 6


def test_a_lost_reply_or_two_does_not_spoil_a_sweep(tmp_path):
    faults = Faults(replies=(ReplyFault("drop", probability=0.02),), seed=3)
    person = Person(tmp_path, faults=faults)
    calibration = person.calibrate()
    for joint in SWEPT_JOINTS:
        motor = calibration[joint]
        assert motor.range_max - motor.range_min == pytest.approx(TRAVEL_TICKS[joint], abs=130)


def test_another_model_is_refused_by_name(tmp_path):
    person = Person(tmp_path)
    person.servos.servos[5].restore_eeprom({registers.MODEL_NUMBER: 2825})
    with pytest.raises(ServoFault, match=r"servo 6 \(gripper\): is an sts3250 \(2825\)"):
        person.calibrate()


def test_a_file_from_elsewhere_can_be_written_to_the_servos(tmp_path):
    person = Person(tmp_path)
    calibration = {
        joint: MotorCalibration(motor.id, 0, 100 * motor.id, 700, 3300)
        for joint, motor in default_calibration().items()
    }
    person.apply(calibration)
    assert person.stored()["wrist_flex"] == [400, 700, 3300]
    assert not person.path.exists()


def test_a_file_of_another_arm_s_ids_is_refused(tmp_path):
    calibration = dict(default_calibration())
    calibration["gripper"] = MotorCalibration(9, 0, 0, 700, 3300)
    with pytest.raises(UserError, match="gripper has id 9, in this arm it is 6"):
        Person(tmp_path).apply(calibration)


def test_where_nothing_can_be_written_is_said_before_the_sweep(tmp_path):
    check_writable(tmp_path / "new" / "folder" / "arm.json")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "arm.json", tmp_path):
        with pytest.raises(CalibrationError, match=r"cannot be written .*; choose another path"):
            check_writable(path)


def test_a_new_file_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "arm.json"
    path.write_text("old")

    def full(*_):
        raise CalibrationError("disk full")

    monkeypatch.setattr("firmware_bridge.calibration_files.save_calibration", full)
    with pytest.raises(CalibrationError):
        replace_calibration(default_calibration(), path, "now")
    assert [entry.name for entry in tmp_path.iterdir()] == ["arm.json"]
    assert path.read_text() == "old"


def test_files_kept_at_the_same_time_do_not_replace_each_other(tmp_path):
    path = tmp_path / "arm.json"
    for text in ("one", "two"):
        path.write_text(text)
        replace_calibration(default_calibration(), path, "now")
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["arm.json", "arm.until-now-2.json", "arm.until-now.json"]
    assert replace_calibration(default_calibration(), path, "now") is None
