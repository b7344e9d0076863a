"""The watchdog in a process of its own, judged by the registers of emulated servos."""

import os
import signal
import time

import pytest
from served_arm import PATIENCE_S, driven, is_running, nothing_left, seconds_until, served_arm
from watched_program import RAMP_S, TIMES

from firmware_bridge.bus import Bus
from firmware_bridge.errors import PortError
from firmware_bridge.transport import SerialTransport

# What a loaded machine may add to any of the watchdog's times.
SLACK_S = 4.0


@pytest.fixture
def arm(tmp_path):
    with served_arm(tmp_path / "port") as served:
        yield served


def test_killed_program_leaves_a_limp_arm_and_a_free_port(arm):
    with driven(arm) as program:
        program.process.kill()
        assert seconds_until(arm.is_limp) < RAMP_S + SLACK_S
        _, errors = program.rest()
        assert errors.splitlines() == [
            f"watched_program: watchdog: watched_program (process {program.pid}) was killed or "
            "crashed while the arm had torque; the watchdog let the arm down, "
            "limp: servos 1 2 3 4 5 6"
        ]
        assert nothing_left(arm, program)
    bus = Bus(SerialTransport(arm.port))
    assert bus.ping(1).error == 0
    bus.close()


def test_program_that_hangs_in_c_is_held_then_ended_and_the_arm_let_down(arm):
    with driven(arm, "hang") as program:
        program.cue()
        assert seconds_until(arm.holds) < TIMES.hold_s + SLACK_S
        assert is_running(program.pid)
        assert program.process.wait(TIMES.soften_s + SLACK_S) == -signal.SIGKILL
        seconds_until(arm.is_limp)
        errors = program.rest()[1]
    assert "hung: no sign of life on the bus for more than 0.40 s" in errors
    assert "limp: servos 1 2 3 4 5 6" in errors


def test_frozen_program_is_held_ended_and_let_down(arm):
    with driven(arm) as program:
        program.process.send_signal(signal.SIGSTOP)
        seconds_until(arm.holds)
        assert program.process.wait(TIMES.soften_s + SLACK_S) == -signal.SIGKILL
        seconds_until(arm.is_limp)


def test_port_of_a_killed_program_is_still_taken_and_says_by_whom(arm):
    with driven(arm) as program:
        with pytest.raises(PortError, match=rf"taken by process {program.pid} \("):
            SerialTransport(arm.port)
        program.process.kill()
        program.process.wait()
        with pytest.raises(
            PortError, match=rf"taken by the watchdog \(process {program.watchdog}\) of a program"
        ):
            SerialTransport(arm.port)
        seconds_until(arm.is_limp)


def test_program_that_wakes_up_after_the_takeover_yields_and_lives(arm):
    with driven(arm) as program:
        program.process.send_signal(signal.SIGSTOP)
        seconds_until(arm.holds)
        program.process.send_signal(signal.SIGCONT)
        assert program.said() == (
            f"StopAsked: watched_program (process {program.pid}) hung: no sign of life on the bus "
            "for more than 0.40 s"
        )
        assert program.said() == "unconfirmed []"
        assert arm.is_limp()
        assert program.process.wait(PATIENCE_S) == 0
        assert program.rest()[1] == ""
        assert arm.is_limp()  # it sent nothing after it woke up
        assert nothing_left(arm, program)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_program_lets_the_arm_down_when_its_watchdog_is_gone(arm, number):
    with driven(arm) as program:
        os.kill(program.watchdog, number)
        said = program.said()
        assert said.startswith("StopAsked: the watchdog process ")
        assert ("is gone (signal 9)" if number == signal.SIGKILL else " hangs: silent") in said
        assert program.said() == "unconfirmed []"
        assert arm.is_limp()
        assert program.process.wait(PATIENCE_S) == 0
        assert nothing_left(arm, program)


def test_signals_for_the_program_do_not_end_the_watchdog(arm):
    with driven(arm) as program:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(program.watchdog, number)
        time.sleep(0.2)
        assert is_running(program.watchdog)
        assert os.getsid(program.watchdog) == program.watchdog
        program.process.kill()
        seconds_until(arm.is_limp)
