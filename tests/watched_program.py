"""A program that drives an arm, for tests that kill it: `watched_program.py PORT WHAT [FILE]`.

Prints the watchdog's process number, waits for a line on standard input, prints `armed`, and at the
end why. WHAT it does at the next line: nothing, `hang` in a C function, or die with `half-frame` on
the wire; with `dead-man` it wants that switch held. FILE is where its record goes if it is killed.
"""

import os
import signal
import sys
import time

from firmware_bridge.arming import ArmLimits
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.errors import BusError
from firmware_bridge.last_words import LastWords
from firmware_bridge.packets import sync_write
from firmware_bridge.registers import GOAL_POSITION
from firmware_bridge.watchdog_settings import WatchdogTimes
from firmware_bridge.watched_arm import open_watched_arm

LIMITS = ArmLimits(
    torque_limits_per_mille=(400, 650, 650, 450, 450, 400),
    acceleration_deg_s2=440.0,
    arming_max_temperature_c=50.0,
    arming_max_motion_deg=2.0,
    max_position_gain=16,
    ramp_s=0.1,
)
TIMES = WatchdogTimes(hold_s=0.4, soften_s=0.9, slow_s=3.0, replug_s=10.0)
RAMP_S = 0.3
PERIOD_S = 0.02
REASON_OFFSET, REASON_BYTES = 8, 300
RECORD = b"RECORDED" + b"?" * REASON_BYTES + b"ticks"


def main() -> int:
    port, what = sys.argv[1], (sys.argv[2:] or ["drive"])[0]
    arm = open_watched_arm(
        port,
        default_calibration(),
        LIMITS,
        TIMES,
        program="watched_program",
        dead_man=what == "dead-man",
        ramp_s=RAMP_S,
    )
    print(arm.watchdog.process, flush=True)
    sys.stdin.readline()
    if len(sys.argv) > 3:
        hand_record(arm, sys.argv[3])
    try:
        goal = arm.read().positions
        arm.arm()
        print("armed", flush=True)
        goal[1] += 8.0  # it pushes: a hold can be told from the last goal
        os.set_blocking(sys.stdin.fileno(), False)
        while True:
            arm.write_goals(goal)
            arm.read()
            time.sleep(PERIOD_S)
            if sys.stdin.readline():
                act(arm, what)
    except BusError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    report = arm.soft_stop()
    print(f"unconfirmed {list(report.unconfirmed_ids)}", flush=True)
    arm.close()
    return 0


def hand_record(arm, path: str) -> None:
    with open(f"{path}.part", "wb") as file:
        file.write(bytes(len(RECORD)))
    descriptor = os.memfd_create("record")
    os.write(descriptor, RECORD)
    words = LastWords(len(RECORD), REASON_OFFSET, REASON_BYTES, f"{path}.part", path)
    arm.watchdog.hand_record(words, descriptor)


def act(arm, what: str) -> None:
    if what == "hang":
        sum(range(10**12))  # never looks at signals or lets another thread run
    elif what == "half-frame":
        frame = sync_write(GOAL_POSITION.address, dict.fromkeys(range(1, 7), b"\x00\x08"))
        arm.watchdog.port.write(frame[: len(frame) // 2])
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
