"""The control loop: read the servos, take the goal due now, let the gate judge it, write it.

Ticks have absolute deadlines on the monotonic clock. A tick that comes a whole period late is
skipped and counted; missed ticks are never replayed, because a servo wants the goal of now. The
policy runs in its own thread and nothing here waits for it. However the loop ends - time up, a
signal, the gate, a failed policy, a dead bus, a bug - the arm is let down softly before it returns.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.chunks import ChunkBuffer
from edge.joints import JointIO, JointIoError, JointReading, StopRequested
from edge.profile import ArmProfile
from edge.safety import Outcome, SafetyGate, TickAges
from edge.tick_log import TickLog

# How long a thread may keep the interpreter while the control thread is due; Python's default of
# 5 ms is a sixth of a 30 Hz tick.
SWITCH_INTERVAL_S = 0.0005

ROUNDING = 1e-6

END_TIME = "time"
END_SIGNAL = "signal"
END_STOP = "stop"

WaitUntil = Callable[[float, threading.Event], None]


class PolicyFeed(Protocol):
    """What the loop gives to and learns from the policy's thread."""

    trouble: str | None
    fault: str | None

    def observe(self, positions: np.ndarray, t_s: float) -> None:
        """Take the newest measurement without blocking."""
        ...


@dataclass(frozen=True, slots=True)
class LoopEnd:
    """Why the loop ended: `how` is time, signal or stop."""

    how: str
    reason: str
    soft_stop_error: str | None = None


class ControlLoop:
    """Drive one armed arm from a chunk buffer through the safety gate."""

    def __init__(
        self,
        joints: JointIO,
        chunks: ChunkBuffer,
        gate: SafetyGate,
        policy: PolicyFeed,
        log: TickLog,
        arm: ArmProfile,
        clock: Callable[[], float] = time.monotonic,
        wait_until: WaitUntil | None = None,
    ) -> None:
        self._joints = joints
        self._chunks = chunks
        self._gate = gate
        self._policy = policy
        self._log = log
        self._period_s = 1.0 / arm.control_hz
        self._times = arm.safety
        self._clock = clock
        self._wait_until = wait_until or _wait_until
        self._reading: JointReading | None = None
        self._bus_error: str | None = None
        self._read_fails_since_s: float | None = None
        self._write_fails_since_s: float | None = None
        self._fault_since_s: float | None = None

    def run(self, seconds: float | None, stop: threading.Event) -> LoopEnd:
        """Tick until `seconds` have passed, `stop` is set, or the gate stops; then soft-stop.

        Raises nothing for what a bus, a model or a signal can do: that is in the LoopEnd.
        """
        end = LoopEnd(END_STOP, "the control loop failed; see the error above")
        switch_interval_s = sys.getswitchinterval()
        gc.collect()
        gc.freeze()  # what exists now lives as long as the run: later collections skip it
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        soft_stop_error = None
        try:
            end = self._run(seconds, stop)
        except StopRequested as request:
            end = LoopEnd(END_STOP, str(request))
        finally:
            sys.setswitchinterval(switch_interval_s)
            gc.unfreeze()
            try:
                self._joints.soft_stop()
            except JointIoError as error:
                soft_stop_error = str(error)
        return LoopEnd(end.how, end.reason, soft_stop_error)

    def _run(self, seconds: float | None, stop: threading.Event) -> LoopEnd:
        started_s = self._clock()
        slots = math.inf if seconds is None else math.ceil(seconds / self._period_s - ROUNDING)
        slot = 0  # tick k is due at started_s + k periods, computed anew: nothing adds up
        while not stop.is_set():
            now_s = self._clock()
            deadline_s = started_s + slot * self._period_s
            if now_s < deadline_s:
                self._wait_until(deadline_s, stop)
                continue
            missed = min(int((now_s - deadline_s) / self._period_s), slots - slot)
            slot += missed
            self._log.missed_ticks += missed
            if slot >= slots:
                return LoopEnd(END_TIME, f"{seconds:g} s are over")
            reason = self._tick(now_s, now_s - started_s - slot * self._period_s)
            if reason is not None:
                return LoopEnd(END_STOP, reason)
            slot += 1
        return LoopEnd(END_SIGNAL, "interrupted")

    def _tick(self, now_s: float, late_s: float) -> str | None:
        """Do one tick; return the reason when it must be the last."""
        self._read(now_s)
        read_s = self._clock()
        if self._reading is None:
            return self._dead_bus(read_s)
        fault = self._policy.fault
        asked = None if fault else self._chunks.goal_at(read_s)
        missing = fault or self._policy.trouble or "no action chunk"
        ages = TickAges(late_s, math.nan, ())
        verdict = self._gate.check(asked, self._reading, read_s, ages, missing)
        decided_s = self._clock()
        if verdict.goal is not None:
            self._write(verdict.goal, decided_s)
        written_s = self._clock()
        self._log.add(
            (
                now_s,
                late_s,
                read_s - now_s,
                decided_s - read_s,
                written_s - decided_s,
                written_s - now_s,
            ),
            self._reading.positions,
            asked,
            verdict,
            self._chunks.number_in_use if asked is not None else -1,
        )
        if verdict.outcome is Outcome.STOP:
            failing = self._read_fails_since_s is not None
            return f"{verdict.reason} ({self._bus_error})" if failing else verdict.reason
        return self._lasting_fault(fault, now_s) or self._dead_bus(written_s)

    def _read(self, now_s: float) -> None:
        try:
            reading = self._joints.read()
        except JointIoError as error:
            self._log.read_errors += 1
            self._bus_error = str(error)
            if self._read_fails_since_s is None:
                self._read_fails_since_s = now_s
            return
        self._reading = reading
        self._read_fails_since_s = None
        self._policy.observe(reading.positions, reading.t_s)

    def _write(self, goal: np.ndarray, now_s: float) -> None:
        try:
            self._joints.write(goal)
        except JointIoError as error:
            self._log.write_errors += 1
            self._bus_error = str(error)
            if self._write_fails_since_s is None:
                self._write_fails_since_s = now_s
            return
        self._write_fails_since_s = None

    def _dead_bus(self, now_s: float) -> str | None:
        limit_s = self._times.stop_state_age_s
        for what, since_s in (
            ("read", self._read_fails_since_s),
            ("write", self._write_fails_since_s),
        ):
            if since_s is not None and now_s - since_s > limit_s:
                return f"every {what} failed for {limit_s * 1e3:.0f} ms: {self._bus_error}"
        return None

    def _lasting_fault(self, fault: str | None, now_s: float) -> str | None:
        if fault is None:
            return None
        if self._fault_since_s is None:
            self._fault_since_s = now_s
        return fault if now_s - self._fault_since_s >= self._times.fault_hold_s else None


def _wait_until(deadline_s: float, stop: threading.Event) -> None:
    stop.wait(max(0.0, deadline_s - time.monotonic()))
