"""An emulated arm on a pty whose registers the test can look into, and programs that drive it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulated_arm import ROOT, START_DEG, wait_until

from firmware_bridge import registers
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Event, ReplyFault
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.emulator.pty_server import serve
from firmware_bridge.registers import Register
from firmware_bridge.stop_socket import connect

PROGRAM = Path(__file__).with_name("watched_program.py")
PATIENCE_S = 20.0


class ServedArm:
    """The servos' own registers, read past the bus."""

    def __init__(self, port: Path) -> None:
        self.port = str(port)
        self.bus = EmulatedBus(RotorPlant(6, start_deg=START_DEG))
        # The program's goal stays ahead of a joint that cannot turn: a hold is seen by its goal.
        self.bus.inject(Event("block", ids=frozenset({2})))

    def unplug(self, seconds: float) -> None:
        self.bus.inject(Event("unplug", duration_s=seconds))

    def silence(self, servo_id: int) -> None:
        """No reply of this servo arrives from now on."""
        self.bus.inject(ReplyFault("drop", ids=frozenset({servo_id})))

    def values(self, register: Register) -> list[int]:
        return [
            register.decode(servo.read(register.address, register.size))
            for servo in self.bus.servos
        ]

    def torque(self) -> list[int]:
        return self.values(registers.TORQUE_ENABLE)

    def holds(self) -> bool:
        """Whether all have torque and goals where they are, to a few ticks."""
        return all(self.torque()) and self._goal_is_present()

    def is_limp(self) -> bool:
        """Whether every servo went through the whole order: limit 0, goal = present, torque off.

        A goal that came after the torque off would have switched the torque on again.
        """
        return (
            not any(self.torque())
            and not any(self.values(registers.TORQUE_LIMIT))
            and self._goal_is_present()
        )

    def _goal_is_present(self) -> bool:
        goals, present = (
            self.values(registers.GOAL_POSITION),
            self.values(registers.PRESENT_POSITION),
        )
        return all(abs(a - b) < 20 for a, b in zip(goals, present, strict=True))


class Driven:
    """A process that drives the arm, see `watched_program.py`."""

    def __init__(self, arm: ServedArm, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), arm.port, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        line = self.process.stdout.readline()
        assert line, f"the program did not start: {self.process.communicate()[1]}"
        self.watchdog = int(line)

    def cue(self) -> None:
        """Let it give torque; the second time, let it do what it was started for."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def said(self) -> str:
        return self.process.stdout.readline().strip()

    def rest(self) -> tuple[str, str]:
        """Wait until program and watchdog are gone; return what both had still to say."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        return output, errors


@contextmanager
def served_arm(port: Path) -> Iterator[ServedArm]:
    """Serve an arm from a thread of this process."""
    arm, stop, ready = ServedArm(port), threading.Event(), threading.Event()
    thread = threading.Thread(
        target=serve,
        args=(arm.bus, port, stop),
        kwargs={"on_ready": lambda _: ready.set()},
        daemon=True,
    )
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield arm
    finally:
        stop.set()
        thread.join(PATIENCE_S)


@contextmanager
def driven(
    arm: ServedArm, what: str = "drive", *arguments: str, armed: bool = True
) -> Iterator[Driven]:
    """Have a process drive the arm, with a goal beyond where the blocked servo is."""
    program = Driven(arm, what, *arguments)
    try:
        if armed:
            program.cue()
            assert program.said() == "armed"
            assert wait_until(lambda: not arm.holds(), PATIENCE_S)
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


def is_running(process: int) -> bool:
    """Whether a process exists and is not merely waiting to be collected."""
    try:
        state = Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def nothing_left(arm: ServedArm, program: Driven) -> bool:
    """Whether program, watchdog and stop socket are gone."""
    gone = wait_until(
        lambda: not (is_running(program.pid) or is_running(program.watchdog)), PATIENCE_S
    )
    client = connect(arm.port, 1.0)
    if client is not None:
        client.close()
    return gone and client is None


def seconds_until(condition, timeout_s: float = PATIENCE_S) -> float:
    started_s = time.monotonic()
    assert wait_until(condition, timeout_s), "it did not happen"
    return time.monotonic() - started_s
