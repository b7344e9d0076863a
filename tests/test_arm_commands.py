"""Whole commands of `molmoact-arm` against an emulator in a process of its own."""

import json
import os

import pytest
import yaml
from at_terminal import at_terminal
from emulated_arm import emulator_process, wait_until

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import save_calibration
from firmware_bridge.cli import main
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.transport import SerialTransport

# The emulator may have to wait for its share of a busy machine.
PATIENT = ("--reply-timeout-ms", "200")


class Emulator:
    """A port, its calibration file, and faults that can be changed meanwhile."""

    def __init__(self, folder):
        self.port = str(folder / "arm")
        self.faults = folder / "faults.yaml"
        self.calibration = str(folder / "arm.json")
        self.change()
        save_calibration(default_calibration(), folder / "arm.json")

    def change(self, **faults):
        part = self.faults.with_suffix(".part")
        part.write_text(yaml.safe_dump(faults))
        os.replace(part, self.faults)

    def read(self, servo_id, register):
        bus = Bus(SerialTransport(self.port), reply_timeout_s=0.5)
        try:
            return bus.read(servo_id, register)
        finally:
            bus.close()


@pytest.fixture
def emulator(tmp_path):
    emulator = Emulator(tmp_path)
    with emulator_process(tmp_path / "arm", "--faults", str(emulator.faults)):
        yield emulator


def started_with(tmp_path, **faults):
    emulator = Emulator(tmp_path)
    emulator.change(**faults)
    return emulator, emulator_process(tmp_path / "arm", "--faults", str(emulator.faults))


def test_doctor_finds_a_healthy_arm_fit(emulator, capsys):
    arguments = ["doctor", "--port", emulator.port, "--reads", "20", *PATIENT]
    assert main([*arguments, "--calibration", emulator.calibration]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "fit to be driven: 0 fail, 0 warn"
    assert all(line.startswith("ok ") for line in lines[:-1])


def test_doctor_says_no_until_it_has_mended(tmp_path, capsys):
    factory = {2: {"registers": {"p_coefficient": 32}}, 6: {"registers": {"overload_torque": 80}}}
    emulator, process = started_with(tmp_path, servos=factory)
    arguments = ["doctor", "--port", emulator.port, "--reads", "5", *PATIENT]
    with process:
        assert main(arguments) == 2
        assert "not fit to be driven: 1 fail, 1 warn" in capsys.readouterr().out
        assert main([*arguments, "--fix"]) == 2
        assert "--fix asks before it writes; run it in a terminal" in capsys.readouterr().err
        assert emulator.read(2, registers.P_COEFFICIENT) == 32
        with at_terminal(*arguments, "--fix") as terminal:
            terminal.expect("mend servo 2 (shoulder_lift): p_coefficient 32 -> 16? [y/N]")
            terminal.type("y")
            terminal.expect("overload_torque 80 -> 25? [y/N]")
            terminal.type()
            assert terminal.end() == 0
        assert emulator.read(6, registers.OVERLOAD_TORQUE) == 80


def test_doctor_names_a_program_that_has_the_port(emulator, capsys):
    holder = SerialTransport(emulator.port)
    assert main(["doctor", "--port", emulator.port]) == 2
    holder.close()
    assert f"fail  port {emulator.port}: taken by " in capsys.readouterr().out


def test_doctor_of_an_absent_port(capsys):
    assert main(["doctor", "--port", "/dev/ttyNONE7"]) == 2
    assert "fail  port /dev/ttyNONE7: no such file or directory; check the USB cable" in (
        capsys.readouterr().out
    )


def test_setup_finds_a_new_servo_that_is_alone(tmp_path, capsys):
    new = {6: {"registers": {"id": 1, "baud_rate": 1}}}
    emulator, process = started_with(tmp_path, missing=[1, 2, 3, 4, 5], servos=new)
    with process:
        arguments = ["setup", "--port", emulator.port, "--joint", "gripper", "--only", "--yes"]
        arguments += PATIENT
        assert main(arguments) == 0
        assert "gripper is id 6 at 1000000 baud, locked (was id 1 at 500000 baud; 12 V build" in (
            capsys.readouterr().out
        )
        assert emulator.read(6, registers.LOCK) == 1
        assert main(arguments) == 0
        assert "(was so already;" in capsys.readouterr().out


def test_setup_asks_for_one_servo_at_a_time(emulator):
    with at_terminal("setup", "--port", emulator.port, *PATIENT) as terminal:
        terminal.expect("[1/6] gripper: id 6")
        terminal.expect("plug the gripper servo, and no other, into the powered adapter")
        terminal.type()
        terminal.expect("more than one servo answers (ids 1, 2, 3, 4, 5, 6); plug in only one")
        emulator.change(missing=[1, 2, 3, 4, 5])
        terminal.expect("plug the gripper servo")
        terminal.type()
        terminal.expect("gripper is id 6 at 1000000 baud, locked (was so already")
        terminal.expect("[2/6] wrist_roll: id 5")
        terminal.press_ctrl_c()
        terminal.expect(f"molmoact-arm setup --port {emulator.port} --joint wrist_roll")
        assert terminal.end() == 130


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["setup", "--port", "P"], "nobody is there to answer"),
        (["setup", "--port", "P", "--yes"], "--yes sets one servo; say which with --joint"),
        (["setup", "--port", "P", "--only"], "--only needs the joint to set"),
        (["doctor", "--port", "P", "--calibration", "/none.json"], "/none.json: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, line, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("molmoact-arm: error: ")
    assert line in error
    assert error.count("\n") == 1


def test_scan_says_at_which_rate_servos_answer(tmp_path, capsys):
    slow = {number: {"registers": {"baud_rate": 1}} for number in (1, 2)}
    emulator, process = started_with(tmp_path, servos=slow)
    with process:
        assert main(["scan", "--port", emulator.port, "--ids", "1-2", *PATIENT]) == 0
    assert "these answer at 500000 baud, the arm needs 1000000" in capsys.readouterr().out


def test_health_once_is_a_table_or_json(emulator, capsys):
    arguments = ["health", "--port", emulator.port, "--once", *PATIENT]
    assert main([*arguments, "--calibration", emulator.calibration]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("id  joint            deg, %")
    assert [line.split()[0] for line in lines[1:]] == list("123456")
    assert main([*arguments, "--json"]) == 0
    sample = json.loads(capsys.readouterr().out)
    assert [servo["position"] for servo in sample["servos"]] == [2048.0] * 6
    emulator.change(missing=[6])
    assert wait_until(lambda: main(arguments) == 2)
    assert "no reply from servo 6 (gripper); run 'molmoact-arm doctor'" in capsys.readouterr().err


def test_health_is_shown_in_place_until_ctrl_c(emulator):
    with at_terminal("health", "--port", emulator.port, *PATIENT) as terminal:
        terminal.expect("gripper")
        terminal.expect("\x1b[7A")
        terminal.expect("gripper")
        terminal.press_ctrl_c()
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
