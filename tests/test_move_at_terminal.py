"""`molmoact-arm move` in a terminal, and everything that may end it."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from at_terminal import at_terminal
from emulated_arm import emulator_process, wait_until

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.cli import main
from firmware_bridge.errors import PortError
from firmware_bridge.transport import SerialTransport

# The emulator may have to wait for its share of a busy machine.
PATIENT = ("--reply-timeout-ms", "500")
TIMEOUT_S = 30.0


@pytest.fixture
def emulator(tmp_path):
    """Return (port, calibration file) of an emulated arm."""
    calibration = tmp_path / "arm.json"
    with emulator_process(tmp_path / "arm", "--calibration", str(calibration)):
        yield str(tmp_path / "arm"), str(calibration)


def moving(emulator, *arguments):
    port, calibration = emulator
    return at_terminal("move", "--port", port, "--calibration", calibration, *PATIENT, *arguments)


def states(port):
    """Return positions and torque of all servos, in ticks and 0 or 1."""
    bus = Bus(SerialTransport(port), reply_timeout_s=0.5)
    try:
        return [
            [bus.read(servo_id, register) for servo_id in range(1, 7)]
            for register in (registers.PRESENT_POSITION, registers.TORQUE_ENABLE)
        ]
    finally:
        bus.close()


def test_it_asks_moves_holds_and_lets_the_arm_down_on_ctrl_c(emulator):
    with moving(emulator, "shoulder_pan=10", "--speed", "60") as terminal:
        terminal.expect("shoulder_pan       0.0 -> 10.0")
        terminal.expect("torque comes on and the arm moves there; go? [y/N]")
        terminal.type("y")
        terminal.expect("holding until Ctrl-C")
        terminal.press_ctrl_c()
        terminal.expect("limp")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
    positions, torque = states(emulator[0])
    assert positions[0] == pytest.approx(2048 + 114, abs=15)
    assert torque == [0] * 6


def test_stop_from_another_terminal_ends_it(emulator, capsys):
    with moving(emulator, "--to", "middle", "--yes") as terminal:
        terminal.expect("holding until Ctrl-C")
        assert main(["stop", "--port", emulator[0], *PATIENT]) == 0
        assert "limp: servos 1 2 3 4 5 6" in capsys.readouterr().out
        terminal.expect("stopped by 'molmoact-arm stop'")
        assert terminal.end() == 2


def test_killed_it_leaves_a_limp_arm(emulator):
    with moving(emulator, "--to", "middle", "--yes") as terminal:
        terminal.expect("holding until Ctrl-C")
        os.kill(terminal.process.pid, signal.SIGKILL)

    def limp():
        with contextlib.suppress(PortError):  # the watchdog still has it
            return states(emulator[0])[1] == [0] * 6
        return False

    assert wait_until(limp, TIMEOUT_S)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["shoulder_pan=5"], "move asks before torque comes on; run it in a terminal, or give --y"),
        (["shoulder_pan=200", "--yes"], "shoulder_pan=200: its range is -108.1..108.1 deg"),
        (["--yes"], "say where to: JOINT=VALUE"),
    ],
)
def test_what_is_refused_is_one_line(emulator, arguments, line, capsys):
    port, calibration = emulator
    assert main(["move", "--port", port, "--calibration", calibration, *PATIENT, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"molmoact-arm: error: {line}")
    assert error.count("\n") == 1
    assert states(port)[1] == [0] * 6


def test_without_a_calibration_nothing_moves(capsys):
    assert main(["move", "--port", "/dev/ttyNONE7", "shoulder_pan=5"]) == 2
    assert "moving needs the arm's calibration: --calibration FILE or --id NAME" in (
        capsys.readouterr().err
    )


def test_another_arms_calibration_is_refused_before_torque(emulator, tmp_path, capsys):
    port, calibration = emulator
    other = tmp_path / "other.json"
    text = Path(calibration).read_text()
    other.write_text(text.replace('"range_max": 3300', '"range_max": 3400', 1))
    arguments = ["--port", port, "--calibration", str(other), "shoulder_pan=5", "--yes"]
    assert main(["move", *PATIENT, *arguments]) == 2
    assert "max_position_limit is 3300, must be 3400" in capsys.readouterr().err
    assert states(port)[1] == [0] * 6
