"""A program that drives an arm until it is killed: `fault_campaign_victim PORT FILE PROFILE SEED`.

It runs the control loop on a random policy, with a watchdog of its own as `molmoact-edge run` has.
FILE is a calibration, PROFILE as for `run`. It prints a line when it is about to give torque.
"""

from __future__ import annotations

import math
import random
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.fault_campaign_policy import RandomCamera, RandomPolicy
from edge.black_box import BlackBox
from edge.chunks import ChunkBuffer
from edge.cli import open_servo_arm
from edge.errors import EdgeError
from edge.loop import ControlLoop
from edge.profile import load_profile
from edge.safety import SafetyGate

MAD_SHARE = 0.15
READY = "gives torque"


def main(argv: list[str]) -> int:
    """Drive until something ends it."""
    port, calibration, profile_name, seed = argv
    # The start gate would end a program whose first goal is mad before anybody could kill it.
    profile = replace(load_profile(profile_name), start_gate_deg=math.inf)
    joints = profile.arm.joints
    arm = open_servo_arm(port, Path(calibration), profile.arm)
    try:
        chunks = ChunkBuffer(
            len(joints),
            profile.arm.action_hz,
            profile.arm.seam_blend_s,
            profile.board.max_chunk_age_s,
        )
        policy = RandomPolicy(profile.arm, chunks, random.Random(int(seed)), MAD_SHARE)
        cameras = [RandomCamera(time.monotonic) for _ in profile.cameras]
        box = BlackBox(100, tuple(joint.name for joint in joints), len(cameras))
        gate = SafetyGate(profile)
        loop = ControlLoop(arm, chunks, gate, policy, cameras, box, profile.arm)
        print(READY, flush=True)
        arm.give_torque()
        with np.errstate(all="ignore"):
            end = loop.run(None, threading.Event())
        print(end.reason, flush=True)
    finally:
        arm.close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EdgeError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
