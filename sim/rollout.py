"""Closed-loop trials: a policy does a task on the offline desk, and physics says whether it did.

    world, policy = OfflineWorld(), Policy.open("bundle")
    for trial in draw_trials(100, seed=0, kinds=("touch", "put_in_bin")):
        result = run_trial(world, policy, trial, RolloutSettings())

The arm follows chunks as on the robot (`edge.chunks`, `edge.commitment`); what a call takes is not
measured but stated (`latency_s`), so that a trial is a function of its arguments on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge.chunks import ChunkBuffer
from edge.commitment import Commitment, Commitments
from edge.joint_frame import JointFrame
from edge.ladder_profile import HOLD, Rung
from edge.normalization import choose_tag
from edge.pace import FULL_PACE, Pace, pace_at
from edge.policy import Policy
from edge.profile import load_profile
from edge.verdict import Outcome
from sim.joints import GRIPPER
from sim.offline_world import PROFILE, OfflineWorld
from sim.tasks import KINDS, Referee, Task, draw_layout
from sim.variation import PLAIN_COLOURS, draw_lights

LIMIT_S = 20.0
_SAME_S = 1e-6  # a clock that is a sum of ticks is off by less


@dataclass(frozen=True, slots=True)
class Trial:
    """One task on one desk."""

    kind: str  # of sim.tasks.KINDS
    colour: str
    instruction: str
    layout_seed: int
    variation_seed: int | None  # of the light; None is the plain one
    seed: int  # of the policy's noise


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How the policy is called, and for how long."""

    replan_s: float = 0.5  # from the start of one call to that of the next
    latency_s: float = 0.1  # from the observation to the chunk
    limit_s: float = LIMIT_S  # after which a task that is not done has failed
    depth: str = "off"  # or "incremental", "full"
    chunking: bool = True  # real-time chunking: calls are held to what the arm does meanwhile
    norm_tag: str | None = None
    pace: Pace = FULL_PACE  # of the degradation ladder


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What came of a trial."""

    trial: Trial
    succeeded: bool
    done_colour: str | None  # of the cube with which the task was done first, named or not
    time_s: float  # until it was done or given up
    calls: int
    changed_share: float | None  # of depth cells that were asked again, after the first call
    # Of the body joints' sent goals; None where there was no seam, or hardly a goal.
    seam_velocity: float | None  # mean over seams of the worst joint's jump in velocity, deg/s
    jerk: float | None  # RMS over joints of the third difference, deg/s3
    clamped_ticks: int
    stopped: str  # the gate's reason, "" when it did not stop the arm


def draw_trials(
    count: int, seed: int, kinds: Sequence[str] = KINDS, *, held_out: bool = True
) -> list[Trial]:
    """Draw trials; kinds take turns. `held_out` draws what training never sees."""
    trials = []
    for number in range(count):
        rng = np.random.default_rng((seed, number, 3))
        kind = kinds[number % len(kinds)]
        layout, cube = draw_layout(rng, kind, held_out=held_out)
        task = Task(kind, PLAIN_COLOURS[cube])
        words = task.instruction(int(rng.integers(1000)), held_out=held_out)
        lights = int(rng.integers(2**31))
        trials.append(Trial(kind, task.colour, words, layout, lights, int(rng.integers(2**31))))
    return trials


def lay_out(world: OfflineWorld, trial: Trial) -> None:
    """Bring a world to the start of a trial."""
    lights = None if trial.variation_seed is None else draw_lights(trial.variation_seed)
    world.reset(trial.layout_seed, task=Task(trial.kind, trial.colour), variation=lights)


def at_rungs(settings: RolloutSettings, rungs: Sequence[Rung]) -> RolloutSettings:
    """Return the settings with these rungs of a ladder in effect, but for a hold."""
    rungs = [rung for rung in rungs if rung.change != HOLD]
    # Which level that is on some ladder says nothing to a trial, and would rename it in a journal.
    return replace(settings, pace=replace(pace_at(rungs, len(rungs)), level=0))


class Driver:
    """Follows a policy's chunks, tick by tick: give it the world at every tick, send its goal."""

    def __init__(
        self, policy: Policy, instruction: str, seed: int, settings: RolloutSettings
    ) -> None:
        self.calls = 0
        self.changed: list[int] = []  # cells asked again, each call after the first
        self.seams: list[int] = []  # ticks at which a chunk took over from another
        arm = load_profile(PROFILE).arm
        self._policy, self._instruction, self._settings = policy, instruction, settings
        self._rng = np.random.default_rng(seed)
        self._frame = JointFrame(arm.signs, arm.offsets_deg)
        self._tag = choose_tag(policy.bundle.tags, settings.norm_tag)
        self._chunks = ChunkBuffer(
            len(arm.joints), arm.action_hz, arm.seam_blend_s, settings.limit_s
        )
        self._commitments = Commitments(self._chunks, arm)
        self._next_s = 0.0
        rates_hz = (settings.pace.max_policy_hz, settings.pace.camera_hz)
        slowest_s, self._frame_s = (1.0 / hz if hz else 0.0 for hz in rates_hz)
        self._replan_s = max(settings.replan_s, slowest_s)
        self._next_frame_s = 0.0
        self._images: Sequence[np.ndarray] = ()
        self._ticks = 0
        self._ready: tuple[float, float, np.ndarray] | None = None
        policy.reset()

    def goal(self, world: OfflineWorld) -> np.ndarray:
        """Return the goal (6,) for now, after calling the policy when it is time to."""
        now_s = world.now_s
        if self._frame_s and now_s >= self._next_frame_s - _SAME_S:
            self._images = world.observe().images
            self._next_frame_s = now_s + self._frame_s
        if self._ready is None and now_s >= self._next_s - _SAME_S:
            self._ready = (now_s + self._settings.latency_s, now_s, self._call(world, now_s))
            self._next_s = now_s + self._replan_s
        if self._ready is not None and now_s >= self._ready[0] - _SAME_S:
            _, observed_s, actions = self._ready
            if self._chunks.remaining_s(now_s) > 0.0:
                self.seams.append(self._ticks)
            self._chunks.put(actions, observed_s, now_s)
            self._commitments.note(now_s - observed_s)
            self._ready = None
        self._ticks += 1
        goal = self._chunks.goal_at(now_s)
        return world.goal.copy() if goal is None else goal

    def _call(self, world: OfflineWorld, now_s: float) -> np.ndarray:
        images = self._images if self._frame_s else world.observe().images
        commitment = self._commitment(now_s)
        shape = (1, self._tag.action_horizon, self._policy.bundle.manifest.model.max_action_dim)
        result = self._policy.act(
            images,
            self._instruction,
            self._frame.model_from_arm(world.state().astype(np.float64)),
            self._tag.name,
            depth=self._settings.depth,
            noise=self._rng.standard_normal(shape, np.float32),
            committed=None if commitment is None else self._model_frame(commitment),
            committed_weights=None if commitment is None else commitment.weights,
            effort=self._settings.pace.effort,
        )
        self.calls += 1
        if result.depth_codes is not None and self.calls > 1:
            self.changed.append(result.changed_cells)
        return self._frame.arm_from_model(np.asarray(result.actions, np.float64))

    def _commitment(self, now_s: float) -> Commitment | None:
        return self._commitments.at(now_s, now_s) if self._settings.chunking else None

    def _model_frame(self, commitment: Commitment) -> np.ndarray:
        return self._frame.model_from_arm(commitment.actions)


def run_trial(
    world: OfflineWorld, policy: Policy, trial: Trial, settings: RolloutSettings
) -> TrialResult:
    """Have `policy` do the trial's task until it is done, with whichever cube, or time is up."""
    lay_out(world, trial)
    referees = {
        colour: Referee(world.world, Task(trial.kind, colour), cube, world.mark_m)
        for colour, cube in world.cubes.items()
    }
    driver = Driver(policy, trial.instruction, trial.seed, settings)
    world.slow_to(settings.pace.speed_share)
    goals, clamped, stopped, done = [], 0, "", None
    began_s = world.now_s
    end_s = world.now_s + settings.limit_s - _SAME_S
    while done is None and not stopped and world.now_s < end_s:
        verdict = world.step(driver.goal(world))
        clamped += verdict.outcome is Outcome.CLAMP
        goals.append(world.goal.copy())
        if verdict.goal is None and verdict.outcome is Outcome.STOP:
            stopped = verdict.reason
        for colour, referee in referees.items():
            if done is None and referee.look():
                done = colour
    cells = policy.bundle.manifest.model.depth_cells
    body = np.array(goals)[:, :GRIPPER]
    return TrialResult(
        trial=trial,
        succeeded=done == trial.colour,
        done_colour=done,
        time_s=world.now_s - began_s,
        calls=driver.calls,
        changed_share=float(np.mean(driver.changed)) / cells if driver.changed else None,
        seam_velocity=_seam_velocity(body, driver.seams, world.rate_hz),
        jerk=_jerk(body, world.rate_hz),
        clamped_ticks=clamped,
        stopped=stopped,
    )


def _seam_velocity(goals: np.ndarray, seams: Sequence[int], rate_hz: float) -> float | None:
    if len(goals) < 3:
        return None
    jumps = np.abs(np.diff(goals, 2, axis=0)).max(axis=1) * rate_hz  # of tick k + 1
    at = [max(jumps[max(0, tick - 2) : tick + 1]) for tick in seams if tick - 2 < len(jumps)]
    return float(np.mean(at)) if at else None


def _jerk(goals: np.ndarray, rate_hz: float) -> float | None:
    if len(goals) < 4:
        return None
    return float(np.sqrt(np.mean((np.diff(goals, 3, axis=0) * rate_hz**3) ** 2)))
