"""One demonstration: what is to be shown, how the arm is disturbed meanwhile, what was recorded.

A demonstration is a function of its `Plan` alone, and a plan of (seed, number, attempt). Three
things teach a policy to come back from where it should not be:

- the arm starts folded, or somewhere above the desk, or low beside the cube with the hand closed,
  as after a miss, or on request where it is after something else was done with another cube; how it
  came there is not recorded;
- what is sent is the expert's goal and a slow disturbance on top, while the action that is recorded
  is the goal without it (DART, arXiv 1703.09327);
- what still goes wrong the expert tries again, and that is recorded.

It ends when the task is done: who saw arms stay where they are would stay where they should not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge.verdict import Outcome
from sim.expert import Expert
from sim.hand import Unreachable
from sim.joints import N_JOINTS
from sim.layout import CUBE_NAMES
from sim.motion import minimum_jerk
from sim.offline_world import Observation, OfflineWorld
from sim.tasks import KINDS, PUT_IN_BIN, TOUCH, Task, draw_layout
from sim.variation import Variation, draw_lights, draw_variation

FOLDED, SOMEWHERE, MISSED, AFTER = "folded", "somewhere", "missed", "after"
STARTS = {FOLDED: 0.55, SOMEWHERE: 0.25, MISSED: 0.20, AFTER: 0.0}
DONE_BEFORE = (TOUCH, PUT_IN_BIN)  # neither moves the mark
MISS_M = (0.028, 0.045)

CALM_SHARE = 0.4
DISTURBANCE = (0.4, 1.0)
# Standard deviation of the disturbance at strength 1, degrees; the gripper is left alone.
DISTURBANCE_DEG = np.array([2.2, 1.3, 1.3, 2.2, 3.5, 0.0])
DISTURBANCE_S = 0.5

MAX_TICKS = 900


@dataclass(frozen=True, slots=True)
class Plan:
    """What one demonstration is to be."""

    task: Task
    instruction: str
    layout_seed: int
    variation_seed: int | None  # None is the plain world
    start: str  # a key of STARTS
    disturbance: float  # strength, 0 for none
    seed: tuple[int, ...]  # of everything else
    light_only: bool = False  # the variation is of the light; things look as they do


@dataclass(slots=True)
class Episode:
    """What was recorded; T ticks at the world's rate."""

    plan: Plan
    succeeded: bool
    attempts: int
    clamped_ticks: int  # at which the gate changed what was sent
    states: np.ndarray  # (T, 6) float32, present positions as the bus reports them
    actions: np.ndarray  # (T, 6) float32, the expert's goals
    images: tuple[list[np.ndarray], ...]  # of each camera, (height, width, 3) uint8 a seen tick
    depth_mm: list[np.ndarray]  # of the front camera, (height, width) uint16 a seen tick
    seen_ticks: list[int]  # those with pictures

    def see(self, seen: Observation, tick: int) -> None:
        """Keep what the cameras saw at a tick."""
        self.seen_ticks.append(tick)
        for images, image in zip(self.images, seen.images, strict=True):
            images.append(image)
        if seen.depth_mm is not None:
            self.depth_mm.append(seen.depth_mm)


class Disturbance:
    """A slow wandering about zero, smooth enough for the gate; one value a tick."""

    def __init__(self, rng: np.random.Generator, strength: float, rate_hz: float) -> None:
        self._rng = rng
        self._spread_deg = strength * DISTURBANCE_DEG
        self._ticks = round(DISTURBANCE_S * rate_hz)
        self._tick = 0
        self._from_deg = self._to_deg = np.zeros(N_JOINTS)

    def next(self) -> np.ndarray:
        """Return the disturbance of the next tick, (6,) degrees."""
        if self._tick == 0:
            self._from_deg = self._to_deg
            drawn = np.clip(self._rng.standard_normal(N_JOINTS), -2.0, 2.0)
            self._to_deg = self._spread_deg * drawn
        self._tick = (self._tick + 1) % self._ticks
        share = (self._tick or self._ticks) / self._ticks
        return self._from_deg + minimum_jerk(share) * (self._to_deg - self._from_deg)


def draw_plan(
    seed: int,
    number: int,
    attempt: int = 0,
    *,
    kinds: Sequence[str] = KINDS,
    varied: bool = True,
    held_out: bool = False,
    light_only: bool = False,
    starts: Mapping[str, float] = STARTS,
) -> Plan:
    """Draw demonstration `number` of a recording; `attempt` counts those that were thrown away.

    Kinds take turns. `held_out` draws layouts and phrasings that training never sees; `starts` has
    the share of each start, in the order of STARTS, 1 together.
    """
    rng = np.random.default_rng((seed, number, attempt))
    kind = kinds[number % len(kinds)]
    variation_seed = int(rng.integers(2**31)) if varied else None
    colours = _colours(None if light_only else variation_seed)
    layout_seed, cube = draw_layout(rng, kind, held_out=held_out)
    task = Task(kind, colours[cube])
    start = str(rng.choice(list(starts), p=list(starts.values())))
    calm = rng.random() < CALM_SHARE
    return Plan(
        task=task,
        instruction=task.instruction(int(rng.integers(1000)), held_out=held_out),
        layout_seed=layout_seed,
        variation_seed=variation_seed,
        start=start,
        disturbance=0.0 if calm else float(rng.uniform(*DISTURBANCE)),
        seed=(seed, number, attempt),
        light_only=light_only,
    )


def demonstrate(
    world: OfflineWorld,
    plan: Plan,
    *,
    every: int = 1,
    on_seen: Callable[[], None] | None = None,
) -> Episode:
    """Carry out a plan and return what was recorded, be it a success or not.

    Pictures are drawn at every `every`-th tick, and `on_seen` is called then.
    """
    rng = np.random.default_rng((*plan.seed, 1))
    world.reset(plan.layout_seed, task=plan.task, variation=variation_of(plan))
    episode = Episode(
        plan, False, 0, 0, np.zeros((0, N_JOINTS)), np.zeros((0, N_JOINTS)), ([], []), [], []
    )
    try:
        if prepare(world, plan, rng):
            _record(world, plan, rng, episode, every, on_seen)
    except Unreachable:
        pass  # A cube was pushed out of reach; the episode is not a success.
    return episode


def variation_of(plan: Plan) -> Variation | None:
    """Return the looks of the plan's world."""
    if plan.variation_seed is None:
        return None
    return (draw_lights if plan.light_only else draw_variation)(plan.variation_seed)


def prepare(world: OfflineWorld, plan: Plan, rng: np.random.Generator) -> bool:
    """Bring the arm to where the demonstration starts, unrecorded; say whether it came there."""
    if plan.start == FOLDED:
        return True
    miss_m = float(rng.uniform(*MISS_M)) if plan.start == MISSED else 0.0
    task = plan.task
    if plan.start == AFTER:
        others = [colour for colour in world.cubes if colour != task.colour]
        task = Task(str(rng.choice(DONE_BEFORE)), str(rng.choice(others)))
        world.judge(task)
    expert = Expert(world, task, rng, miss_m=miss_m)
    with contextlib.suppress(Unreachable):  # then it starts where it came to
        for goal in expert.go_somewhere(rng) if plan.start == SOMEWHERE else expert.goals():
            if world.step(goal).goal is None:
                return False
            if world.succeeded:
                break
    world.judge(plan.task)
    return True


def _record(
    world: OfflineWorld,
    plan: Plan,
    rng: np.random.Generator,
    episode: Episode,
    every: int,
    on_seen: Callable[[], None] | None,
) -> None:
    expert = Expert(world, plan.task, rng)
    disturbance = Disturbance(rng, plan.disturbance, world.rate_hz)
    states, actions = [], []
    for goal in expert.goals():
        if len(states) % every == 0:
            episode.see(world.observe(), len(states))
            if on_seen is not None:
                on_seen()
        states.append(world.state())
        actions.append(goal.astype(np.float32))
        verdict = world.step(goal + expert.looseness * disturbance.next())
        episode.clamped_ticks += verdict.finding.outcome is not Outcome.PASS
        if verdict.goal is None or len(states) >= MAX_TICKS or world.succeeded:
            break
    episode.succeeded = world.succeeded
    episode.attempts = expert.attempts
    episode.states, episode.actions = np.array(states), np.array(actions)


def _colours(variation_seed: int | None) -> tuple[str, ...]:
    plain = tuple(name.removesuffix("_cube") for name in CUBE_NAMES)
    return plain if variation_seed is None else draw_variation(variation_seed).cube_colours
