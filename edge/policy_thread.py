"""Run the policy beside the control loop: newest frames and joints in, a timed action chunk out.

The control thread leaves each measurement in a slot and never waits. This thread takes what is
newest when it is ready, converts joint frames (the only place that does), and puts the chunk into
the buffer. Each call is told what the arm will have done by the time it is ready, so that its chunk
goes on from there (`edge.commitment`). It calls no policy on stale pictures, and when a call fails
it ends with the fault in `fault`, which the loop turns into a hold and a soft stop.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from edge.camera import Camera, Frame, stale_camera
from edge.chunks import ChunkBuffer
from edge.commitment import Commitment, Commitments
from edge.errors import EdgeError
from edge.joint_frame import JointFrame
from edge.pace import FULL_EFFORT, STEADY, Effort, Pacing
from edge.profile import Profile

IDLE_S = 0.01
MAX_CALLS_KEPT = 20_000  # an hour at 5 calls a second, 30 MB with depth codes


class ActResult(Protocol):
    """What a policy call returns; see `edge.policy`."""

    actions: np.ndarray
    depth_codes: np.ndarray | None
    stages: Mapping[str, float]
    depth_passes: int
    changed_cells: int
    moved_cells: int
    prompt_tokens: int
    asked_cells: np.ndarray | None  # (depth_cells,) bool, those of changed_cells


class ActingPolicy(Protocol):
    """The part of `edge.policy.Policy` that runs a robot."""

    def act(
        self,
        images: list[np.ndarray],
        task: str,
        state: np.ndarray,
        norm_tag: str | None = None,
        depth: str = "off",
        *,
        committed: np.ndarray | None = None,
        committed_weights: np.ndarray | None = None,
        effort: Effort = FULL_EFFORT,
    ) -> ActResult:
        """Predict one chunk of actions in the checkpoint's joint frame."""
        ...

    def reset(self) -> None:
        """Forget the previous pictures and their depth codes."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What the arm is asked to do."""

    task: str
    norm_tag: str | None
    depth: str


@dataclass(frozen=True, slots=True)
class PolicyCall:
    """One call: when, on what, and what it cost; times on time.monotonic."""

    number: int
    started_s: float
    ended_s: float
    state_age_s: float
    frame_ages_s: tuple[float, ...]
    stages_s: dict[str, float]
    depth_passes: int
    changed_cells: int  # cells whose picture changed, so that their code was asked again
    moved_cells: int  # cells whose code came out different
    prompt_tokens: int
    depth_codes: np.ndarray | None
    chunk_start_s: float
    n_actions: int
    n_held: int  # first actions that were held to what the arm did during the call
    foreseen_s: float  # how long this call was expected to take; 0 = nothing to go by
    seam_gap: float  # to the chunk before at the seam, worst joint; blended away
    asked_cells: np.ndarray | None = None  # (depth_cells,) bool, those of changed_cells


@dataclass(frozen=True, slots=True)
class _Inputs:
    frames: tuple[Frame, ...]
    positions: np.ndarray  # arm frame
    measured_s: float
    taken_s: float


class PolicyThread:
    """Own the policy while the loop runs."""

    def __init__(
        self,
        policy: ActingPolicy,
        cameras: list[Camera],
        profile: Profile,
        chunks: ChunkBuffer,
        request: Request,
        clock: Callable[[], float] = time.monotonic,
        pacing: Pacing = STEADY,
    ) -> None:
        self._policy = policy
        self._cameras = cameras
        self._profile = profile
        self._frame = JointFrame(profile.arm.signs, profile.arm.offsets_deg)
        self._chunks = chunks
        self._commitments = Commitments(chunks, profile.arm)
        self._request = self._remembered = request  # what is asked, and what was last
        self._clock = clock
        self._pacing = pacing
        self._state: tuple[np.ndarray, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self.n_calls = 0
        self.calls: deque[PolicyCall] = deque(maxlen=MAX_CALLS_KEPT)
        self.trouble: str | None = None  # why no call is made just now
        self.fault: str | None = None  # why no call will ever be made again
        self.fault_trace: str | None = None

    def observe(self, positions: np.ndarray, t_s: float) -> None:
        """Leave the newest measurement, (n_joints,) in the arm's frame; never blocks."""
        self._state = (positions.copy(), t_s)

    def ask(self, task: str) -> None:
        """Ask for this task from the next call on; never blocks.

        A call in progress still puts its chunk: an arm that is not moved on holds, and for too long
        it may not. The next one forgets the depth codes, which were written for other words.
        """
        self._request = replace(self._request, task=task)

    def start(self) -> None:
        """Begin to call the policy."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait for the call in progress; False when it did not end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def warm_up(self) -> str | None:
        """Call the policy once for nothing, before the arm moves; return why it could not.

        Engines allocate and read their weights on the first call. Afterwards the policy has
        forgotten the pictures it saw. An EdgeError passes through.
        """
        inputs = self._inputs()
        if inputs is None:
            return self.trouble
        try:
            self._act(inputs, None, self._request)
        except EdgeError:
            raise
        except Exception as error:  # noqa: BLE001 - not to continue: the caller ends the run
            self.fault_trace = traceback.format_exc()
            return _failure(error)
        self._policy.reset()
        return None

    def call_once(self) -> bool:
        """Make one policy call now if pictures and state are fresh; say whether one was made.

        What the policy raises passes through.
        """
        inputs = self._inputs()
        if inputs is None:
            return False
        request = self._request
        if request != self._remembered:
            self._policy.reset()
            self._remembered = request
        foreseen_s = self._commitments.foreseen_s
        commitment = self._commitments.at(inputs.measured_s, inputs.taken_s)
        result = self._act(inputs, commitment, request)
        ended_s = self._clock()
        self._commitments.note(ended_s - inputs.taken_s)
        actions = self._frame.arm_from_model(np.asarray(result.actions, np.float64))
        chunk = self._chunks.put(actions, inputs.measured_s, ended_s)
        codes = result.depth_codes
        self.calls.append(
            PolicyCall(
                number=self.n_calls,
                started_s=inputs.taken_s,
                ended_s=ended_s,
                state_age_s=inputs.taken_s - inputs.measured_s,
                frame_ages_s=tuple(frame.age_s(inputs.taken_s) for frame in inputs.frames),
                stages_s=dict(result.stages),
                depth_passes=int(result.depth_passes),
                changed_cells=int(result.changed_cells),
                moved_cells=int(result.moved_cells),
                prompt_tokens=int(result.prompt_tokens),
                depth_codes=None if codes is None else np.array(codes),
                chunk_start_s=chunk.start_s,
                n_actions=len(chunk.actions),
                n_held=0 if commitment is None else commitment.n_held,
                foreseen_s=foreseen_s,
                seam_gap=float(np.abs(chunk.gap).max()),
                asked_cells=result.asked_cells,
            )
        )
        self._pacing.note_call(inputs.taken_s, ended_s, self._chunk_s(len(chunk.actions)))
        self.n_calls += 1
        return True

    def _inputs(self) -> _Inputs | None:
        """Take the newest state and pictures, or leave in `trouble` why they will not do."""
        if hold := self._pacing.pace.hold:
            self.trouble = hold
            self._chunks.cut(self._clock())
            return None
        state = self._state
        if state is None:
            self.trouble = "no servo state yet"
            return None
        frames = [camera.latest() for camera in self._cameras]
        now_s = self._clock()
        self.trouble = self._stale_input(frames, now_s, state[1])
        fresh = tuple(frame for frame in frames if frame is not None)
        return None if self.trouble else _Inputs(fresh, state[0], state[1], now_s)

    def _act(self, inputs: _Inputs, commitment: Commitment | None, request: Request) -> ActResult:
        committed = weights = None
        if commitment is not None:
            committed = self._frame.model_from_arm(commitment.actions)
            weights = commitment.weights
        effort = self._pacing.pace.effort
        limits = {} if effort == FULL_EFFORT else {"effort": effort}
        return self._policy.act(
            [frame.image for frame in inputs.frames],
            request.task,
            self._frame.model_from_arm(inputs.positions),
            norm_tag=request.norm_tag,
            depth=request.depth,
            committed=committed,
            committed_weights=weights,
            **limits,
        )

    def _stale_input(
        self, frames: list[Frame | None], now_s: float, measured_s: float
    ) -> str | None:
        limit_s = self._profile.arm.safety.hold_state_age_s
        if now_s - measured_s > limit_s:
            age_ms = (now_s - measured_s) * 1e3
            return f"servo state is {age_ms:.0f} ms old, limit {limit_s * 1e3:.0f} ms"
        return stale_camera(frames, self._profile.cameras, now_s)

    def _next_start_s(self) -> float:
        """Return when the next call may start, after the last one."""
        call = self.calls[-1]
        most_hz = self._pacing.pace.max_policy_hz or self._profile.board.max_policy_hz
        paced_s = call.started_s + 1.0 / most_hz
        if call.ended_s - call.started_s < self._chunk_s(call.n_actions):
            return paced_s
        # A call that takes longer than a chunk lasts would come back with every action of its
        # chunk lived through, so it looks only when the arm stands still again.
        return max(paced_s, call.ended_s + self._chunks.remaining_s(call.ended_s))

    def _chunk_s(self, n_actions: int) -> float:
        return n_actions / self._profile.arm.action_hz

    def _run(self) -> None:
        next_s = self._clock()
        while not self._stop.is_set():
            wait_s = next_s - self._clock()
            if wait_s > 0.0:
                self._stop.wait(wait_s)
                continue
            try:
                called = self.call_once()
            except EdgeError as error:
                self.fault = f"policy failed: {error}"
                return
            except Exception as error:  # noqa: BLE001 - not to continue: the loop stops the arm
                self.fault_trace = traceback.format_exc()
                self.fault = _failure(error)
                return
            next_s = self._next_start_s() if called else self._clock() + IDLE_S


def _failure(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"policy failed: {type(error).__name__}: {text}"
