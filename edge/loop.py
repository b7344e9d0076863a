"""The control loop: read the servos, take the goal due now, let the gate judge it, write it.

Ticks have absolute deadlines on the monotonic clock. A tick that comes a whole period late is
skipped and counted; missed ticks are never replayed, because a servo wants the goal of now. The
policy runs in its own thread and nothing here waits for it. However the loop ends - time up, a
signal, the gate, a failed policy, a dead bus, a bug - the arm is let down softly before it returns.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.black_box import BlackBox, Tick
from edge.camera import Camera
from edge.chunks import ChunkBuffer
from edge.errors import one_line
from edge.joints import JointIO, JointIoError, JointReading, StopRequested
from edge.pace import STEADY, Pacing
from edge.policy_thread import PolicyCall
from edge.profile import ArmProfile
from edge.real_time import quiet_interpreter
from edge.safety import Outcome, SafetyGate, TickAges

ROUNDING = 1e-6
# Of a period: the part a tick's read may take, so that its write still belongs to it.
READ_SHARE = 0.75
# A signal is noticed between two naps.
LONGEST_NAP_S = 0.1

END_TIME = "time"
END_SIGNAL = "signal"
END_STOP = "stop"
END_TASKS = "tasks"

WaitUntil = Callable[[float], None]


class PolicyFeed(Protocol):
    """What the loop gives to and learns from the policy's thread."""

    trouble: str | None
    fault: str | None
    calls: Sequence[PolicyCall]  # the newest last

    def observe(self, positions: np.ndarray, t_s: float) -> None:
        """Take the newest measurement without blocking."""
        ...


class Tasks(Protocol):
    """What the arm is to do one after the other; see `edge.task_turns`."""

    over: str  # why the run should end, "" while it should not

    def look(self, now_s: float) -> Sequence[str]:
        """Go on to the next task if it is time to, without blocking; return what happened."""
        ...

    def end(self, now_s: float) -> Sequence[str]:
        """Take note that the run ends now."""
        ...


@dataclass(frozen=True, slots=True)
class LoopEnd:
    """Why the loop ended: `how` is time, tasks, signal or stop."""

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
        cameras: Sequence[Camera],
        box: BlackBox,
        arm: ArmProfile,
        clock: Callable[[], float] = time.monotonic,
        wait_until: WaitUntil | None = None,
        tasks: Tasks | None = None,
        pacing: Pacing = STEADY,
    ) -> None:
        self._joints = joints
        self._chunks = chunks
        self._gate = gate
        self._policy = policy
        self._cameras = cameras
        self._box = box
        self._period_s = 1.0 / arm.control_hz
        self._times = arm.safety
        self._clock = clock
        self._wait_until = wait_until or _wait_until
        self._tasks = tasks
        self._pacing = pacing
        self._pace = pacing.pace
        self._record = Tick()
        self._reading: JointReading | None = None
        self._bus_error: str | None = None
        self._read_fails_since_s: float | None = None
        self._write_fails_since_s: float | None = None
        self._fault_since_s: float | None = None

    def run(self, seconds: float | None, stop: threading.Event) -> LoopEnd:
        """Tick until time or tasks are over, `stop` is set, or the gate stops; then soft-stop.

        Raises nothing for what a bus, a model or a signal can do: that is in the LoopEnd. The box
        has the end too, also when a bug is raised.
        """
        end = LoopEnd(END_STOP, "the control loop did not end as it should")
        soft_stop_error = None
        try:
            with quiet_interpreter() as use_spare_time:
                end = self._run(seconds, stop, use_spare_time)
        except StopRequested as request:
            end = LoopEnd(END_STOP, str(request))
        except BaseException as error:
            kind = type(error).__name__
            end = LoopEnd(END_STOP, f"the control loop failed: {kind}: {one_line(error)}")
            raise
        finally:
            ended_s = self._clock()
            self._note_end(end)
            try:
                self._joints.soft_stop()
            except JointIoError as error:
                soft_stop_error = str(error)
                self._box.set_text("soft_stop_error", soft_stop_error)
            if self._tasks is not None:
                self._note_all(self._tasks.end(ended_s))
        return LoopEnd(end.how, end.reason, soft_stop_error)

    def _run(
        self, seconds: float | None, stop: threading.Event, use_spare_time: Callable[[float], None]
    ) -> LoopEnd:
        started_s = self._clock()
        slots = math.inf if seconds is None else math.ceil(seconds / self._period_s - ROUNDING)
        slot = 0  # tick k is due at started_s + k periods, computed anew: nothing adds up
        while not stop.is_set():
            now_s = self._clock()
            deadline_s = started_s + slot * self._period_s
            if now_s < deadline_s:
                use_spare_time(deadline_s - now_s)
                self._wait_until(deadline_s)
                continue
            late_s = now_s - deadline_s
            missed = min(int(late_s / self._period_s), slots - slot)
            if missed:
                slot += missed
                self._box.count_missed(missed)
            if slot >= slots:
                return LoopEnd(END_TIME, f"{seconds:g} s are over")
            self._keep_pace(late_s, missed)
            reason = self._tick(slot, now_s, late_s)
            if reason is not None:
                return LoopEnd(END_STOP, reason)
            if self._tasks is not None:
                self._note_all(self._tasks.look(self._clock()))
                if self._tasks.over:
                    return LoopEnd(END_TASKS, self._tasks.over)
            slot += 1
        return LoopEnd(END_SIGNAL, "interrupted")

    def _keep_pace(self, late_s: float, missed: int) -> None:
        self._pacing.note_tick(late_s, missed)
        self._note_all(self._pacing.news())
        if self._pace is not self._pacing.pace:
            self._pace = self._pacing.pace
            self._gate.slow_to(self._pace.speed_share)

    def _tick(self, slot: int, now_s: float, late_s: float) -> str | None:
        """Do one tick; return the reason when it must be the last."""
        tick = self._record
        tick.slot, tick.started_s, tick.late_s = slot, now_s, late_s
        tick.level, tick.speed_share = self._pace.level, self._pace.speed_share
        tick.read_failed = not self._read(now_s)
        tick.reading = self._reading
        tick.checked_s = self._clock()
        self._decide(tick)
        tick.decided_s = self._clock()
        goal = None if tick.verdict is None else tick.verdict.goal
        tick.write_failed = goal is not None and not self._write(goal, tick.decided_s)
        tick.written_s = self._clock()
        self._box.add(tick)
        return self._last_word(tick)

    def _decide(self, tick: Tick) -> None:
        """Ask the gate about the goal that is due; not before the first measurement."""
        calls = self._policy.calls
        tick.call = calls[-1] if calls else None
        if tick.reading is None:
            tick.asked = tick.ages = tick.verdict = None
            tick.chunk = -1
            return
        fault = self._policy.fault or self._pace.hold
        tick.asked = None if fault else self._chunks.goal_at(tick.checked_s)
        tick.chunk = -1 if fault else self._chunks.number_in_use
        chunk_s = math.nan if fault else tick.checked_s - self._chunks.observed_s_in_use
        cameras_s = tuple([tick.checked_s - camera.newest_s() for camera in self._cameras])
        tick.ages = TickAges(tick.late_s, chunk_s, cameras_s)
        missing = fault or self._policy.trouble or "no action chunk"
        tick.verdict = self._gate.check(
            tick.asked, tick.reading, tick.checked_s, tick.ages, missing
        )

    def _last_word(self, tick: Tick) -> str | None:
        verdict = tick.verdict
        if verdict is not None and verdict.outcome is Outcome.STOP:
            return f"{verdict.reason} ({self._bus_error})" if tick.read_failed else verdict.reason
        fault = None if verdict is None else self._policy.fault
        return self._lasting_fault(fault, tick.started_s) or self._dead_bus(tick.written_s)

    def _read(self, now_s: float) -> bool:
        try:
            reading = self._joints.read(now_s + READ_SHARE * self._period_s)
        except JointIoError as error:
            self._bus_error = str(error)
            if self._read_fails_since_s is None:
                self._read_fails_since_s = now_s
                self._box.note(now_s, f"read failed: {error}")
            return False
        self._reading = reading
        self._read_fails_since_s = None
        self._policy.observe(reading.positions, reading.t_s)
        return True

    def _write(self, goal: np.ndarray, now_s: float) -> bool:
        try:
            self._joints.write(goal)
        except JointIoError as error:
            self._bus_error = str(error)
            if self._write_fails_since_s is None:
                self._write_fails_since_s = now_s
                self._box.note(now_s, f"write failed: {error}")
            return False
        self._write_fails_since_s = None
        return True

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

    def _note_all(self, happened: Sequence[str]) -> None:
        for text in happened:
            self._box.note(self._clock(), text)

    def _note_end(self, end: LoopEnd) -> None:
        self._box.set_text("how", end.how)
        self._box.set_text("reason", end.reason)


def _wait_until(deadline_s: float) -> None:
    time.sleep(min(LONGEST_NAP_S, max(0.0, deadline_s - time.monotonic())))
