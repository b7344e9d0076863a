"""Moves an armed arm along a line, slowly, and gives up where it is blocked or unwell.

The goal never runs ahead of the measured position by more than the lead: that is what bounds how
hard a blocked joint pushes. Where a joint cannot keep up, the whole line waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from firmware_bridge.arm import Arm
from firmware_bridge.calibration import GRIPPER, JOINTS
from firmware_bridge.errors import BusError, BusTimeout
from firmware_bridge.feedback import ArmReading
from firmware_bridge.motion import StraightMotion
from firmware_bridge.soft_stop import status_text

TICK_S = 1.0 / 30.0
# One or two lost replies happen on a good bus.
MAX_LOST_READS = 3
BLOCKED_S = 1.0
# After the line is through, gravity and friction leave some degrees; time to come to rest.
SETTLE_S = 0.5


class MoveStopped(BusError):  # noqa: N818 - nothing need be wrong with the bus
    """The arm cannot or should not go on; it still holds when this is raised."""


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """How fast and how hard; degrees for body joints, percent for the gripper."""

    speed_deg_s: float
    acceleration_deg_s2: float
    lead_deg: float
    gripper_lead_percent: float
    max_temperature_c: float

    @property
    def leads(self) -> np.ndarray:
        """How far goals may be ahead, (6,) in joint order."""
        return np.array(
            [self.gripper_lead_percent if joint == GRIPPER else self.lead_deg for joint in JOINTS]
        )


class Mover:
    """Owns the goals of an armed arm until it is made limp."""

    def __init__(
        self,
        arm: Arm,
        limits: MoveLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._arm = arm
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._lost = 0
        self._goals: np.ndarray | None = None
        self._next_s = clock()

    def go(self, targets: Mapping[str, float]) -> ArmReading:
        """Move joints to `targets`, degrees and gripper percent; return the reading at the end.

        Blocks; the other joints stay. Raises MoveStopped when a joint is blocked, hot or faulty,
        and what the bus raises; torque is then still on.
        """
        reading = self._first_reading()
        start = reading.positions if self._goals is None else self._goals
        target = np.array([targets.get(joint, start[i]) for i, joint in enumerate(JOINTS)])
        n_joints = len(JOINTS)
        motion = StraightMotion(
            start,
            target,
            np.full(n_joints, self._limits.speed_deg_s),
            np.full(n_joints, self._limits.acceleration_deg_s2),
        )
        way_s = waited_s = 0.0
        while way_s < motion.duration_s + SETTLE_S:
            current = self._tick()
            if current is None:
                continue
            reading = current
            behind = self._follow(reading, motion.at(way_s))
            if behind is None:
                way_s, waited_s = way_s + TICK_S, 0.0
                continue
            waited_s += TICK_S
            if waited_s >= BLOCKED_S:
                raise MoveStopped(f"{behind} for {waited_s:.0f} s: it is blocked, or carries much")
        return reading

    def hold(self, duration_s: float) -> None:
        """Stay for `duration_s`, which may be without end; raises what `go` raises."""
        end_s = self._clock() + duration_s
        while self._clock() < end_s:
            reading = self._tick()
            if reading is not None and self._goals is not None:
                self._follow(reading, self._goals)

    def _first_reading(self) -> ArmReading:
        while True:
            reading = self._tick()
            if reading is not None:
                return reading

    def _tick(self) -> ArmReading | None:
        """Wait for the next tick and read the arm; None when a reply was lost."""
        now_s = self._clock()
        self._next_s = max(self._next_s + TICK_S, now_s)
        self._sleep(self._next_s - now_s)
        try:
            reading = self._arm.read()
        except BusTimeout:
            self._lost += 1
            if self._lost >= MAX_LOST_READS:
                raise
            return None
        self._lost = 0
        self._check(reading)
        return reading

    def _follow(self, reading: ArmReading, wanted: np.ndarray) -> str | None:
        """Send the goals that are not too far ahead; name the joint that cannot keep up."""
        leads = self._limits.leads
        ahead = wanted - reading.positions
        goals = reading.positions + np.clip(ahead, -leads, leads)
        self._arm.write_goals(goals)
        excess = np.abs(ahead) - leads
        slowest = int(np.argmax(excess))
        if excess[slowest] <= 0.0:
            self._goals = wanted
            return None
        unit = "percent" if JOINTS[slowest] == GRIPPER else "deg"
        return (
            f"{JOINTS[slowest]} stays {abs(ahead[slowest]):.1f} {unit} behind at "
            f"{reading.positions[slowest]:.1f}"
        )

    def _check(self, reading: ArmReading) -> None:
        for joint, bits, temperature_c in zip(
            JOINTS, reading.status, reading.temperatures_c, strict=True
        ):
            if bits:
                raise MoveStopped(f"{joint} reports {status_text(int(bits))}")
            if temperature_c > self._limits.max_temperature_c:
                raise MoveStopped(
                    f"{joint} is at {temperature_c:.0f} C, moving allows "
                    f"{self._limits.max_temperature_c:g} C; let it cool down"
                )
