import os
import signal
import subprocess
import sys

import pytest
import yaml
from emulated_arm import ROOT, emulator_process, wait_until

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import load_calibration
from firmware_bridge.cli import build_parser, main
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.transport import SerialTransport

# The emulator may have to wait for its share of a busy machine.
PATIENT = ("--reply-timeout-ms", "300")


@pytest.fixture
def emulator(tmp_path):
    link = tmp_path / "arm"
    with emulator_process(link):
        yield str(link)


def error_line(capsys):
    """Return the one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("molmoact-arm: error: ")
    return lines[0]


def with_faults(tmp_path, **faults):
    path = tmp_path / "faults.yaml"
    path.write_text(yaml.safe_dump(faults))
    return ("--faults", str(path))


def test_scan_lists_every_servo(emulator, capsys):
    assert main(["scan", "--port", emulator, "--ids", "1-6", *PATIENT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    words = " ".join(lines[0].split())
    assert words == "id 1 model 777 (sts3215) firmware 3.10 12 V build 12.0 V 24 C ok"


def test_scan_at_the_wrong_rate_finds_nothing(emulator, capsys):
    code = main(["scan", "--port", emulator, "--ids", "1-2", "--baud-rate", "500000"])
    assert code == 2
    assert "no servo of ids 1-2 answered at 500000 baud; check power" in error_line(capsys)


def test_stop_makes_an_energised_arm_limp(emulator, capsys):
    bus = Bus(SerialTransport(emulator))
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(range(1, 7), 2060))
    assert bus.read(6, registers.TORQUE_ENABLE) == 1
    bus.close()
    assert main(["stop", "--port", emulator, "--ramp-s", "0.1", *PATIENT]) == 0
    assert capsys.readouterr().out == "limp: servos 1 2 3 4 5 6\n"
    bus = Bus(SerialTransport(emulator))
    assert [bus.read(servo_id, registers.TORQUE_ENABLE) for servo_id in range(1, 7)] == [0] * 6
    bus.close()


def test_stop_names_a_servo_that_does_not_answer(tmp_path, capsys):
    link = tmp_path / "arm"
    faults = with_faults(tmp_path, missing=[3], servos={2: {"status_bits": 32}})
    with emulator_process(link, *faults):
        assert main(["stop", "--port", str(link), "--ramp-s", "0"]) == 2
    captured = capsys.readouterr()
    assert "limp: servos 1 2 4 5 6\n" in captured.out
    assert "servo 2: reports overload" in captured.out
    assert captured.err.splitlines() == [
        f"molmoact-arm: error: {link}: servos 3 did not confirm torque off, which was also "
        "broadcast; if the arm still holds, cut its power"
    ]


def test_stop_on_a_dead_bus_is_one_line(tmp_path, capsys):
    link = tmp_path / "arm"
    with emulator_process(link, *with_faults(tmp_path, missing=[1, 2, 3, 4, 5, 6])):
        assert main(["stop", "--port", str(link)]) == 2
    assert "servos 1 2 3 4 5 6 did not confirm" in error_line(capsys)


@pytest.mark.parametrize("command", ["scan", "stop"])
def test_absent_port_is_one_line(command, capsys):
    assert main([command, "--port", "/dev/ttyNONE7"]) == 2
    assert "/dev/ttyNONE7: no such port; check the USB cable" in error_line(capsys)


@pytest.mark.parametrize("command", ["scan", "stop"])
def test_taken_port_is_one_line(command, emulator, capsys):
    holder = SerialTransport(emulator)
    assert main([command, "--port", emulator]) == 2
    holder.close()
    assert f"{emulator}: taken by " in error_line(capsys)


def test_emulate_writes_the_calibration_of_its_arm(tmp_path):
    path = tmp_path / "arm.json"
    with emulator_process(tmp_path / "arm", "--calibration", str(path)):
        assert load_calibration(path) == default_calibration()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_emulate_ends_cleanly_on_a_signal(tmp_path, number):
    link = tmp_path / "arm"
    with emulator_process(link) as process:
        assert link.is_symlink()
        process.send_signal(number)
        assert process.wait(10) == 0
    assert not link.is_symlink()


def test_emulate_refuses_a_link_in_use(emulator, capsys):
    assert main(["emulate", "--link", emulator]) == 2
    assert "already exists; remove it, or end the emulator" in error_line(capsys)


def test_emulate_never_replaces_a_file(tmp_path, capsys):
    path = tmp_path / "precious"
    path.write_text("text")
    assert main(["emulate", "--link", str(path)]) == 2
    assert "already exists" in error_line(capsys)
    assert path.read_text() == "text"


def test_emulate_takes_over_the_link_of_one_that_was_killed(tmp_path):
    link = tmp_path / "arm"
    link.symlink_to("/dev/pts/4000000000")  # where no terminal can be, as after a kill -9
    with emulator_process(link):
        assert main(["scan", "--port", str(link), "--ids", "1-1"]) == 0


def test_emulate_names_the_bad_key_of_a_faults_file(tmp_path, capsys):
    arguments = with_faults(tmp_path, missing=[300])
    assert main(["emulate", "--link", str(tmp_path / "arm"), *arguments]) == 2
    assert "missing: 300 is not a servo id, 0..253" in error_line(capsys)
    assert not (tmp_path / "arm").is_symlink()


def test_clients_can_come_and_go(emulator):
    for _ in range(3):
        bus = Bus(SerialTransport(emulator))
        assert bus.ping(1).error == 0
        bus.close()


def test_killed_client_leaves_the_port_usable(emulator):
    script = (
        "import sys,os;from firmware_bridge.transport import SerialTransport as T;"
        "t=T(sys.argv[1]);os.kill(os.getpid(),9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, emulator], env=environment, check=False)
    assert main(["stop", "--port", emulator, "--ramp-s", "0", *PATIENT]) == 0


def test_emulator_moves_in_real_time(emulator):
    bus = Bus(SerialTransport(emulator))
    bus.write(1, registers.GOAL_POSITION, 2500)
    assert wait_until(lambda: abs(bus.read(1, registers.PRESENT_POSITION) - 2500) < 5)
    bus.close()


def test_unplugged_emulator_is_a_port_error(tmp_path, capsys):
    link = tmp_path / "arm"
    with emulator_process(link) as process:
        path = os.path.realpath(link)
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert main(["scan", "--port", path]) == 2
    assert path in error_line(capsys)


@pytest.mark.parametrize("arguments", [[], ["emulate"], ["stop"], ["scan", "--ids", "9-3"]])
def test_bad_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["emulate"],
        ["scan"],
        ["setup"],
        ["calibrate"],
        ["doctor"],
        ["health"],
        ["move"],
        ["stop"],
    ],
)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "example: molmoact-arm " in capsys.readouterr().out
