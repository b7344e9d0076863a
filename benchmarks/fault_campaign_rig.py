"""One emulated arm under test: the loop's own code on it, in memory, on a clock of its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

from benchmarks.fault_campaign_book import Book
from benchmarks.fault_campaign_faults import (
    CAMERA_DIES,
    LATE_TICK,
    POLICY_FAILS,
    POLICY_HANGS,
    Strike,
)
from benchmarks.fault_campaign_judge import Judge
from benchmarks.fault_campaign_line import JudgedLine
from benchmarks.fault_campaign_policy import RandomCamera, RandomPolicy
from edge.black_box import BlackBox
from edge.chunks import ChunkBuffer
from edge.cli import ServoArm
from edge.joints import JointIoError, JointReading
from edge.loop import ControlLoop, LoopEnd
from edge.profile import Profile
from edge.safety import Outcome, Rule, SafetyGate, TickAges, Verdict
from edge.safety_check import LimitCheck
from firmware_bridge.arm import Arm
from firmware_bridge.arming import ArmLimits
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import JOINTS
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration, eeprom_values, joint_stops_deg
from firmware_bridge.emulator.drive import AMBIENT_C
from firmware_bridge.emulator.faults import Faults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.soft_stop import RAMP_S

START_DEG = (0.0, -30.0, 30.0, 20.0, 0.0, 20.0)
# A USB adapter hands bytes over once a millisecond.
ADAPTER_MS = 1.0
# Verdicts that tell of a fault; the others are about what the policy asks for.
_TELLING = (
    Rule.STATE,
    Rule.STALL,
    Rule.TEMPERATURE,
    Rule.VOLTAGE,
    Rule.SERVO_FAULT,
    Rule.CAMERA,
    Rule.LATE,
)
# A policy that hung has its next chunk ready so much later at the latest.
HUSH_S = 0.1
MakeGate = Callable[[Profile], SafetyGate]


@dataclass(slots=True)
class Stalls:
    """The worst of what faults cost the loop, in seconds."""

    tick_s: float = 0.0  # of a tick on the bus
    blind_s: float = 0.0  # age of a measurement on which a goal was based


class Rig:
    """Emulated servos and what judges them; `drive` gives torque and runs the loop once."""

    def __init__(self, profile: Profile, seed: int, make_gate: MakeGate, mad: float) -> None:
        self.profile = profile
        self.dice = random.Random(seed)
        self.book = Book()
        self.stalls = Stalls()
        self.ticks = 0
        self.stop = threading.Event()
        self.missed_ticks = 0
        self.fired: dict[str, int] = {}
        self._seed = seed
        self._make_gate = make_gate
        self._mad = mad
        self._calibration = default_calibration()
        plant = RotorPlant(len(JOINTS), start_deg=START_DEG, stops_deg=joint_stops_deg())
        self.bus = EmulatedBus(plant, faults=self._no_faults(), byte_timing=True)
        self.judge = Judge(self.bus, self._calibration, profile.arm)
        self.line = JudgedLine(self.bus, self.judge, self.dice)
        self.at_tick: Callable[[], None] = lambda: None
        self._late_s = 0.0
        self._policy: RandomPolicy | None = None
        self._cameras: list[RandomCamera] = []
        self._came_back_s = 0.0

    def strike(self, strike: Strike) -> None:
        """Let a fault happen."""
        now_s = self.bus.now_s
        self.book.struck(now_s + strike.lasts_s + 0.1)
        self.bus.inject(*strike.thrown)
        if strike.kind == LATE_TICK:
            self._late_s = strike.lasts_s
        elif self._policy is not None and strike.kind == POLICY_HANGS:
            self._policy.silent_until_s = now_s + strike.lasts_s
        elif self._policy is not None and strike.kind == POLICY_FAILS:
            self._policy.fault = "policy failed: as the campaign has it"
        elif strike.kind == CAMERA_DIES and self._cameras:
            self.dice.choice(self._cameras).died_s = now_s
            self._came_back_s = now_s + strike.lasts_s

    @property
    def policy_is_struck(self) -> bool:
        """Whether it is the campaign that keeps the policy from answering."""
        policy = self._policy
        if policy is None:
            return False
        return policy.fault is not None or self.bus.now_s < policy.silent_until_s + HUSH_S

    def open_arm(self) -> JudgedArm:
        """Return the arm as a program that has just started finds it."""
        line, arm = self.line, self.profile.arm
        line.revive()
        line.reopen()
        limits = ArmLimits(
            torque_limits_per_mille=tuple(joint.torque_limit_permille for joint in arm.joints),
            acceleration_deg_s2=arm.arming.acceleration_deg_s2,
            arming_max_temperature_c=arm.arming.max_temperature_c,
            arming_max_motion_deg=arm.arming.max_motion_deg,
            max_position_gain=arm.arming.max_position_gain,
            ramp_s=arm.arming.ramp_s,
        )
        bus = Bus(line, clock=line.clock)
        servos = Arm(bus, self._calibration, limits, clock=line.clock, sleep=line.sleep)
        return JudgedArm(self, servos)

    def drive(self, arm: JudgedArm, seconds: float) -> LoopEnd:
        """Run the loop on an armed arm until `stop` is set, too; Crashed when the program dies."""
        profile = self.profile
        chunks = ChunkBuffer(
            len(profile.arm.joints),
            profile.arm.action_hz,
            profile.arm.seam_blend_s,
            profile.board.max_chunk_age_s,
        )
        self._policy = RandomPolicy(profile.arm, chunks, self.dice, self._mad)
        self._cameras = [RandomCamera(self.line.clock) for _ in profile.cameras]
        names = tuple(joint.name for joint in profile.arm.joints)
        box = BlackBox(2, names, len(self._cameras))
        loop = ControlLoop(
            arm,
            chunks,
            JudgedGate(self, arm),
            self._policy,
            self._cameras,
            box,
            profile.arm,
            clock=self.line.clock,
            wait_until=self._wait_until,
        )
        try:
            with np.errstate(all="ignore"):  # what a mad policy does to an interpolation
                return loop.run(seconds, self.stop)
        finally:
            self.judge.driving = False
            self.missed_ticks += box.missed_ticks
            box.close()

    def mend(self) -> None:
        """Do what somebody beside the arm can: end the faults, put settings back, switch power."""
        for kind, count in self.bus.fired.items():
            self.fired[kind] = self.fired.get(kind, 0) + count
        self.bus.fired.clear()
        self.bus.replace_faults(self._no_faults())
        for servo in self.bus.servos:
            servo.restore_eeprom(eeprom_values(servo.place))
        self.bus.power_cycle()
        for servo in self.bus.servos:
            servo.drive.temperature_c = AMBIENT_C
        self.wait(0.5)

    def wait(self, seconds: float) -> None:
        """Let time pass with nobody on the bus."""
        self.line.revive()
        self.line.sleep(seconds)

    def make_gate(self) -> SafetyGate:
        """Return the gate under test."""
        return self._make_gate(self.profile)

    def _no_faults(self) -> Faults:
        return Faults(seed=self._seed, adapter_ms=ADAPTER_MS)

    def _wait_until(self, deadline_s: float) -> None:
        if self.bus.now_s > self._came_back_s:
            for camera in self._cameras:
                camera.died_s = None
        self.at_tick()
        late_s, self._late_s = self._late_s, 0.0
        self.line.sleep(max(1e-9, deadline_s - self.bus.now_s) + late_s)


class JudgedArm(ServoArm):
    """The servo bus as the loop sees it, judged; nothing of it behaves in another way."""

    def __init__(self, rig: Rig, arm: Arm) -> None:
        super().__init__((arm,))
        self.trouble = False  # a read or write failed in this tick
        self._rig = rig
        self._bus_s = 0.0

    @property
    def counters(self) -> tuple[int, ...]:
        """What the driver counted: retries, broken and stray frames, ports opened again."""
        return astuple(self._arm.bus.counters)

    def read(self, deadline_s: float | None = None) -> JointReading:
        """Measure, and have the reading compared with what the servos said."""
        rig, began_s = self._rig, self._rig.bus.now_s
        rig.ticks += 1
        rig.judge.driving = True
        rig.judge.reading_begins()
        self._bus_s, self.trouble = 0.0, False
        try:
            reading = super().read(deadline_s)
        except JointIoError:
            self.trouble = True
            raise
        finally:
            self._took(began_s)
        rig.judge.reading_taken(reading, began_s)
        return reading

    def write(self, positions: np.ndarray) -> None:
        """Send goals."""
        began_s = self._rig.bus.now_s
        try:
            super().write(positions)
        except JointIoError:
            self._rig.book.seen()
            raise
        finally:
            self._took(began_s)

    def soft_stop(self) -> None:
        """Let the arm down and have it looked at."""
        rig = self._rig
        rig.judge.driving = False
        report = self._arm.soft_stop(ramp_s=RAMP_S, port_wait_s=rig.profile.arm.watchdog.replug_s)
        rig.judge.arm_let_down(report.unconfirmed_ids)
        if report.unconfirmed_ids:
            raise JointIoError(f"servos {report.unconfirmed_ids} did not confirm torque off")

    def _took(self, began_s: float) -> None:
        self._bus_s += self._rig.bus.now_s - began_s
        self._rig.stalls.tick_s = max(self._rig.stalls.tick_s, self._bus_s)


class JudgedGate:
    """The safety gate, with a second opinion on all that it lets through."""

    def __init__(self, rig: Rig, arm: JudgedArm) -> None:
        self._rig = rig
        self._arm = arm
        self._gate = rig.make_gate()
        self._limits = LimitCheck(rig.profile)
        self._counters = arm.counters
        self._period_s = 1.0 / rig.profile.arm.control_hz

    def check(
        self,
        goal: np.ndarray | None,
        reading: JointReading,
        now_s: float,
        ages: TickAges,
        missing: str,
    ) -> Verdict:
        """As the gate itself."""
        verdict = self._gate.check(goal, reading, now_s, ages, missing)
        rig, broken = self._rig, []
        if verdict.goal is not None:
            held = verdict.outcome is Outcome.HOLD
            broken = self._limits.broken(verdict.goal, reading, now_s, held)
            rig.stalls.blind_s = max(rig.stalls.blind_s, now_s - reading.t_s)
        rig.judge.let_through(verdict.goal, broken)
        counters = self._arm.counters
        tells = verdict.rule in _TELLING or ages.late_s > self._period_s
        tells |= goal is None and rig.policy_is_struck
        if tells or self._arm.trouble or counters != self._counters:
            self._counters = counters
            rig.book.seen()
        follows = verdict.outcome < Outcome.HOLD and not self._arm.trouble
        rig.book.ticked(now_s, follows)
        return verdict
