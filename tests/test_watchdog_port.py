"""What the watchdog does with a bus, a port and a record that were left in any state."""

import signal
import time

import pytest
from emulated_arm import wait_until
from served_arm import PATIENCE_S, driven, nothing_left, seconds_until, served_arm
from watched_program import REASON_BYTES, REASON_OFFSET, RECORD

from firmware_bridge import registers


@pytest.fixture
def arm(tmp_path):
    with served_arm(tmp_path / "port") as served:
        yield served


def test_program_killed_in_the_middle_of_a_frame_leaves_a_limp_arm(arm):
    with driven(arm, "half-frame") as program:
        program.cue()
        seconds_until(arm.is_limp)
        assert program.process.wait(PATIENCE_S) == -signal.SIGKILL
        assert "limp: servos 1 2 3 4 5 6" in program.rest()[1]


def test_record_of_a_killed_program_is_written_with_the_reason(arm, tmp_path):
    path = tmp_path / "run.box"
    with driven(arm, "drive", str(path)) as program:
        program.process.kill()
        errors = program.rest()[1]
    record = path.read_bytes()
    reason = record[REASON_OFFSET:][:REASON_BYTES].rstrip(b"\0").decode()
    assert record[:REASON_OFFSET] == RECORD[:REASON_OFFSET]
    assert record[REASON_OFFSET + REASON_BYTES :] == b"ticks"
    assert "was killed or crashed while the arm had torque" in reason
    assert "limp: servos 1 2 3 4 5 6" in reason
    assert errors.endswith(f"{reason}; black box: {path}\n")
    assert not path.with_name("run.box.part").exists()


def test_program_killed_before_torque_touches_nothing(arm):
    with driven(arm, armed=False) as program:
        limits = arm.values(registers.TORQUE_LIMIT)
        program.process.kill()
        assert program.rest()[1] == ""
        assert nothing_left(arm, program)
    assert arm.values(registers.TORQUE_LIMIT) == limits
    assert arm.torque() == [0] * 6


def test_killed_program_with_the_plug_pulled_is_let_down_when_the_plug_is_back(arm):
    with driven(arm) as program:
        arm.unplug(2.0)
        program.process.kill()
        time.sleep(0.5)
        assert all(arm.torque())
        seconds_until(arm.is_limp)
        errors = program.rest()[1]
    assert f"{arm.port}: port lost with torque on; plug it in again within 10 s" in errors
    assert "limp: servos 1 2 3 4 5 6" in errors


def test_plug_that_comes_back_leaves_the_arm_watched(arm):
    with driven(arm) as program:
        arm.unplug(0.5)
        said = program.said()
        assert said.startswith(("PortError", "BusTimeout", "PowerLost"))
        assert program.said() == "unconfirmed []"
        assert wait_until(arm.is_limp)
        assert program.process.wait(PATIENCE_S) == 0
        assert nothing_left(arm, program)
