"""Kills real programs with real watchdogs while they drive an emulated arm on a pseudo-terminal.

The emulated servos live in this process, so that their torque can be looked at past the bus.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.errors import BusBenchError
from benchmarks.fault_campaign_rig import START_DEG
from benchmarks.fault_campaign_victim import READY
from edge.arm_profile import WatchdogTimes
from firmware_bridge import registers
from firmware_bridge.calibration import JOINTS, save_calibration
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration, joint_stops_deg
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.emulator.pty_server import serve
from firmware_bridge.stop_socket import connect

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0
# Arming takes 1.4 s: some programs die in it, some while they drive.
LATEST_S = 5.0
# Beyond what the watchdog waits before it softens the arm: the fade, and a slow machine.
PATIENCE_S = 15.0
TRIES = 5  # programs that may end by themselves in a row
POLL_S = 0.005
# The ways a program dies: at once, or by doing nothing any more.
WAYS = {"kill -9": signal.SIGKILL, "kill -STOP": signal.SIGSTOP}


@dataclass(slots=True)
class CrashResult:
    """What became of the arms of programs that died one way; `torque_left_on` must be 0."""

    way: str
    crashes: int = 0
    with_torque: int = 0  # the arm had torque at that moment
    torque_left_on: int = 0
    worst_limp_s: float = 0.0  # from the signal to the last servo's torque off
    examples: list[str] = field(default_factory=list)


def crash_programs(
    count: int, seed: int, profile_name: str, times: WatchdogTimes, tell: Callable[[str], None]
) -> list[CrashResult]:
    """Start and crash `count` programs each way; takes about 8 s for each."""
    dice = random.Random(seed)
    results = [CrashResult(way) for way in WAYS]
    with tempfile.TemporaryDirectory(prefix="molmoact-bench-") as folder:
        calibration = Path(folder) / "calibration.json"
        save_calibration(default_calibration(), calibration)
        with _served(Path(folder) / "port") as (bus, port):
            for number in range(count):
                tell(f"killing programs: {number + 1} of {count}")
                for result in results:
                    for _ in range(TRIES):
                        arguments = [
                            str(port),
                            str(calibration),
                            profile_name,
                            str(dice.getrandbits(32)),
                        ]
                        after_s = dice.uniform(0.0, LATEST_S)
                        if _crash(result, bus, port, arguments, after_s, times):
                            break
                    else:
                        result.examples.append(f"{TRIES} programs ended before they were killed")
    return results


def _crash(
    result: CrashResult,
    bus: EmulatedBus,
    port: Path,
    arguments: list[str],
    after_s: float,
    times: WatchdogTimes,
) -> bool:
    """Start a program and kill it; False when the gate had stopped it before."""
    with _victim(arguments) as process:
        time.sleep(after_s)
        if process.poll() is not None:
            return False
        had_torque = _pushing(bus)
        os.kill(process.pid, WAYS[result.way])
        killed_s = time.monotonic()
        result.crashes += 1
        result.with_torque += bool(had_torque)
        deadline_s = killed_s + times.soften_s + PATIENCE_S
        while (_pushing(bus) or _is_watched(port)) and time.monotonic() < deadline_s:
            if _pushing(bus):
                result.worst_limp_s = max(result.worst_limp_s, time.monotonic() - killed_s)
            time.sleep(POLL_S)
        if left := _pushing(bus):
            result.torque_left_on += 1
            result.examples.append(f"{result.way}: torque left on in servos {left}")
            bus.power_cycle()
    return True


@contextmanager
def _victim(arguments: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fault_campaign_victim", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        if process.stdout.readline().strip() != READY:
            raise BusBenchError("the program that was to be killed did not start; try again")
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def _served(port: Path) -> Iterator[tuple[EmulatedBus, Path]]:
    plant = RotorPlant(len(JOINTS), start_deg=START_DEG, stops_deg=joint_stops_deg())
    bus = EmulatedBus(plant)
    stop, ready = threading.Event(), threading.Event()
    options = {"on_ready": lambda _: ready.set()}
    thread = threading.Thread(target=serve, args=(bus, port, stop), kwargs=options, daemon=True)
    thread.start()
    try:
        if not ready.wait(START_TIMEOUT_S):
            raise BusBenchError(f"the emulated arm did not appear at {port}; try again")
        yield bus, port
    finally:
        stop.set()
        thread.join()


def _pushing(bus: EmulatedBus) -> list[int]:
    return [servo.place for servo in bus.servos if servo.value(registers.TORQUE_ENABLE)]


def _is_watched(port: Path) -> bool:
    """Whether a watchdog still has its stop socket open."""
    client = connect(str(port), 1.0)
    if client is not None:
        client.close()
    return client is not None
