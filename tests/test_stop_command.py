"""`molmoact-arm stop` and `hold-to-run` beside a program that drives the arm."""

import os
import subprocess
import sys
import termios
import time

import pytest
from emulated_arm import ROOT, wait_until
from served_arm import PATIENCE_S, driven, nothing_left, seconds_until, served_arm

from firmware_bridge import stop_command
from firmware_bridge.cli import main
from firmware_bridge.stop_socket import HOLD_SILENCE_S, listen


@pytest.fixture
def arm(tmp_path):
    with served_arm(tmp_path / "port") as served:
        yield served


FINGER = """
import os, sys, time
while True:
    os.write(int(sys.argv[1]), b" ")
    time.sleep(0.05)
"""


class Switch:
    """A `hold-to-run` process; bytes on its standard input are the key that is held.

    Another process is the finger: this one may be late.
    """

    def __init__(self, arm):
        key, self._key = os.pipe()
        self._finger: subprocess.Popen | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "firmware_bridge.cli", "hold-to-run", "--port", arm.port],
            stdin=key,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        os.close(key)

    def press_once(self):
        os.write(self._key, b" ")

    def hold(self):
        command = [sys.executable, "-c", FINGER, str(self._key)]
        self._finger = subprocess.Popen(command, pass_fds=[self._key], stderr=subprocess.DEVNULL)

    def let_go(self):
        self._finger.kill()
        self._finger.wait()

    def holds(self, program) -> bool:
        """Wait until the program's watchdog knows of it."""
        return any(str(program.pid) in line for line in self.process.stdout)

    def rest(self) -> tuple[str, str]:
        """Wait until it has ended; return what it had still to say."""
        self.process.wait(PATIENCE_S)
        return self.process.stdout.read(), self.process.stderr.read()

    def close(self):
        self.process.kill()
        self.process.communicate()
        if self._finger is not None:
            self.let_go()
        os.close(self._key)


@pytest.fixture
def switch(arm):
    made = Switch(arm)
    yield made
    made.close()


def test_stop_has_a_running_program_let_the_arm_down(arm, monkeypatch, capsys):
    # The answer is the watchdog's, also when the program is soft and gone within one look of it:
    # stop has no need of the port, which may have gone with the program.
    monkeypatch.setattr(stop_command, "_open_bus", lambda *_: pytest.fail("stop opened the port"))
    with driven(arm) as program:
        assert main(["stop", "--port", arm.port]) == 0
        assert arm.is_limp()
        assert (
            program.said() == f"StopAsked: stopped by 'molmoact-arm stop' (process {os.getpid()})"
        )
        assert program.said() == "unconfirmed []"
        assert program.process.wait(PATIENCE_S) == 0
        assert nothing_left(arm, program)
    assert capsys.readouterr().out.splitlines() == [
        f"asked watched_program (process {program.pid}) to stop",
        "limp: servos 1 2 3 4 5 6",
    ]


def test_stop_ends_a_program_that_hangs_and_lets_the_arm_down(arm, capsys):
    with driven(arm, "hang") as program:
        program.cue()
        assert main(["stop", "--port", arm.port]) == 0
        assert arm.is_limp()
        errors = program.rest()[1]
    assert "limp: servos 1 2 3 4 5 6\n" in capsys.readouterr().out
    assert "hung: no sign of life" in errors


def test_stop_before_torque_is_the_end_of_the_program(arm, capsys):
    with driven(arm, armed=False) as program:
        assert main(["stop", "--port", arm.port]) == 0
        assert "limp: servos 1 2 3 4 5 6\n" in capsys.readouterr().out
        program.cue()
        assert program.said().startswith("StopAsked: stopped by 'molmoact-arm stop'")
        assert program.said() == "unconfirmed []"
        assert program.process.wait(PATIENCE_S) == 0
        assert not any(arm.torque())


def test_stop_names_servos_that_do_not_answer_its_watchdog(arm, capsys):
    with driven(arm) as program:
        arm.silence(3)
        assert main(["stop", "--port", arm.port]) == 2
        program.rest()
    captured = capsys.readouterr()
    assert "limp: servos 1 2 4 5 6\n" in captured.out
    assert captured.err.splitlines() == [
        f"molmoact-arm: error: {arm.port}: servos 3 did not confirm torque off, which was also "
        "broadcast; if the arm still holds, cut its power"
    ]


def test_stop_goes_on_alone_when_the_program_ends_meanwhile(arm, capsys):
    server, path = listen(arm.port)
    watchdog = subprocess.Popen(
        [sys.executable, "-c", "import sys, socket\nsocket.socket(fileno=0).accept()[0].recv(9)"],
        stdin=server,
    )
    server.close()
    assert main(["stop", "--port", arm.port]) == 0
    watchdog.wait(PATIENCE_S)
    path.unlink()
    assert capsys.readouterr().out == "limp: servos 1 2 3 4 5 6\n"


def test_stop_gives_up_on_a_watchdog_that_does_not_answer(arm, monkeypatch, capsys):
    server, path = listen(arm.port)
    monkeypatch.setattr(stop_command, "ANSWER_TIMEOUT_S", 0.2)
    assert main(["stop", "--port", arm.port]) == 2
    server.close()
    path.unlink()
    assert "did not answer for 0.2 s; switch the arm's power off" in capsys.readouterr().err


def test_dead_mans_switch_that_nobody_holds_keeps_torque_off(arm):
    with driven(arm, "dead-man", armed=False) as program:
        program.cue()
        assert program.said() == (
            f"WatchdogError: {arm.port}: nobody holds the dead man's switch; run "
            f"'molmoact-arm hold-to-run --port {arm.port}' in another terminal first"
        )
        assert program.process.wait(PATIENCE_S) == 0
        assert not any(arm.torque())


@pytest.mark.parametrize("how", ["let go", "killed"])
def test_arm_moves_while_the_switch_is_held_and_no_longer(arm, switch, how):
    switch.hold()
    with driven(arm, "dead-man", armed=False) as program:
        assert switch.holds(program)
        program.cue()
        assert program.said() == "armed"
        time.sleep(2.0 * HOLD_SILENCE_S)
        assert all(arm.torque())
        if how == "killed":
            switch.process.kill()
        else:
            switch.let_go()
        seconds_until(arm.is_limp)
        assert program.said() == (
            f"StopAsked: the dead man's switch was let go (process {switch.process.pid})"
        )
        assert program.process.wait(PATIENCE_S) == 0
    assert ("let go: the arm is let down\n" in switch.rest()[0]) == (how == "let go")


def test_switch_notices_that_the_run_has_ended(arm, switch):
    switch.hold()
    with driven(arm, "dead-man", armed=False) as program:
        assert switch.holds(program)
        program.process.kill()
        output, _ = switch.rest()
    assert output.endswith("the run has ended\n")
    assert switch.process.returncode == 0


def test_switch_is_refused_by_a_program_that_wants_none(arm, switch):
    with driven(arm):
        switch.hold()
        _, errors = switch.rest()
    assert switch.process.returncode == 2
    assert "the run takes no dead man's switch: start the run with --dead-man" in errors


def test_switch_that_is_let_go_before_the_run_says_so(arm, switch):
    switch.press_once()
    output, errors = switch.rest()
    assert switch.process.returncode == 2
    assert f"{arm.port}: waiting for a run; keep holding\n" in output
    assert "let go before a run was there; nothing was stopped" in errors


def test_keyboard_gives_every_key_at_once_and_is_left_as_it_was(arm):
    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    with driven(arm, "dead-man", armed=False) as program:
        switch = subprocess.Popen(
            [sys.executable, "-m", "firmware_bridge.cli", "hold-to-run", "--port", arm.port],
            stdin=terminal,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        assert switch.stdout.readline().startswith("hold a key down")
        assert wait_until(lambda: termios.tcgetattr(terminal) != before, PATIENCE_S)
        os.write(keyboard, b" ")  # without an Enter
        assert str(program.pid) in switch.stdout.readline()
        assert "let go: the arm is let down" in switch.communicate(timeout=PATIENCE_S)[0]
    assert termios.tcgetattr(terminal) == before
    os.close(keyboard)
    os.close(terminal)
