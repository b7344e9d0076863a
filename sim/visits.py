"""Moments of an episode with what the expert would do next: what corrections are made of.

Where the expert drives, its own next goals are known. Where a policy drives, the world is forked at
the moment and the expert goes on in the fork (DAgger, arXiv 1011.0686): so the policy is shown what
to do in the places to which its own mistakes bring it.

What the arm is about to do shows in its pose, so that an instruction need hardly be read. Where at
some moments something else is asked for, and what the expert would do for that is kept, only the
words tell what comes next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edge.policy import Policy
from edge.verdict import Outcome
from sim.demonstration import FOLDED, Episode, Plan, demonstrate, prepare, variation_of
from sim.expert import Expert
from sim.hand import Unreachable
from sim.joints import N_JOINTS
from sim.offline_world import OfflineWorld
from sim.rollout import Driver, RolloutSettings
from sim.tasks import FIRST_TRAINING_LAYOUT, PUSH_TO_MARK, PUT_IN_BIN, TOUCH, Task

HORIZON = 30  # goals of a chunk, ticks of the world apart
# Of recoveries: places an episode, ticks that are looked at from each, and how many places are
# nearly right for another cube.
PLACES, SHOWN_TICKS, OTHER_CUBE_SHARE = 5, 60, 0.25
RECOVERED_KINDS = (TOUCH, PUT_IN_BIN, PUT_IN_BIN)


@dataclass(slots=True)
class Visits:
    """N moments of one episode."""

    episode: Episode  # pictures, and whether the task was done; N `seen_ticks`
    states: np.ndarray  # (N, 6) float32, present positions
    chunks: np.ndarray  # (N, HORIZON, 6) float32, the expert's goals from then on
    instructions: list[str]  # N


class OtherTasks:
    """Asks for something else than what is being done, at some of the moments of a plan."""

    def __init__(self, world: OfflineWorld, plan: Plan, share: float) -> None:
        self._world = world
        self._plan = plan
        self._share = share
        self._rng = np.random.default_rng((*plan.seed, 4))

    def ask(self) -> tuple[str, np.ndarray] | None:
        """Return other words for this moment, and the goals (HORIZON, 6) that follow from them.

        None where the moment stays with the plan: most of all when the hand holds a cube.
        """
        if self._rng.random() >= self._share:
            return None
        task = self._draw()
        if task == self._plan.task or self._world.holds_a_cube():
            return None
        chunk = advice(self._world, task, self._rng)
        held_out = self._plan.layout_seed < FIRST_TRAINING_LAYOUT
        words = task.instruction(int(self._rng.integers(1000)), held_out=held_out)
        return None if chunk is None else (words, chunk)

    def _draw(self) -> Task:
        """Draw a task; pushing has one mark, which belongs to the cube of the plan."""
        tasks = [Task(kind, colour) for kind in (TOUCH, PUT_IN_BIN) for colour in self._world.cubes]
        if self._plan.task.kind == PUSH_TO_MARK:
            tasks.append(self._plan.task)
        return tasks[int(self._rng.integers(len(tasks)))]


def visit_expert(world: OfflineWorld, plan: Plan, every: int, other_tasks: float = 0.0) -> Visits:
    """Have the expert carry out a plan, and look at every `every`-th tick.

    `other_tasks` is the chance of a moment to ask for another task.
    """
    others = OtherTasks(world, plan, other_tasks)
    asked: list[tuple[str, np.ndarray] | None] = []
    episode = demonstrate(world, plan, every=every, on_seen=lambda: asked.append(others.ask()))
    ticks = np.array(episode.seen_ticks, int)
    last = len(episode.actions) - 1
    chunks = episode.actions[np.minimum(ticks[:, None] + np.arange(HORIZON), last)]
    instructions = [plan.instruction] * len(ticks)
    for moment, other in enumerate(asked[: len(ticks)]):
        if other is not None:
            instructions[moment], chunks[moment] = other
    return Visits(episode, episode.states[ticks], chunks, instructions)


def visit_beginnings(world: OfflineWorld, plan: Plan, every: int) -> Visits:
    """Bring the arm somewhere, and at every `every`-th tick ask for every cube in turn.

    The task of the plan is not done. A picture comes once a cube, so that nothing but the words
    tells one moment from the next.
    """
    plan = replace(plan, start=FOLDED, disturbance=0.0)
    rng = np.random.default_rng((*plan.seed, 5))
    world.reset(plan.layout_seed, task=plan.task, variation=variation_of(plan))
    none = np.zeros((0, N_JOINTS), np.float32)
    episode = Episode(plan, True, 1, 0, none, none, ([], []), [], [])
    states, chunks, instructions = [], [], []
    held_out = plan.layout_seed < FIRST_TRAINING_LAYOUT
    for tick, goal in enumerate(Expert(world, plan.task, rng).go_somewhere(rng)):
        if tick % every == 0:
            seen = world.observe()
            for colour in world.cubes:
                task = Task(str(rng.choice((TOUCH, PUT_IN_BIN))), colour)
                chunk = advice(world, task, rng)
                if chunk is None:
                    continue
                episode.see(seen, tick)
                states.append(world.state())
                chunks.append(chunk)
                instructions.append(task.instruction(int(rng.integers(1000)), held_out=held_out))
        if world.step(goal).goal is None:
            break
    episode.succeeded = bool(states)
    return Visits(episode, np.array(states), np.array(chunks), instructions)


def visit_recoveries(world: OfflineWorld, plan: Plan, every: int) -> Visits:
    """Bring the arm nearly where a task wants it, let the expert mend that, and again elsewhere.

    In demonstrations a low hand is over its cube, so who learns from them need not look where the
    cube is, comes down beside it and closes there. Here the hand's place says little about the
    cube's. Tasks are the plan's where it has a mark, else drawn anew for every place.
    """
    plan = replace(plan, start=FOLDED, disturbance=0.0)
    rng = np.random.default_rng((*plan.seed, 6))
    world.reset(plan.layout_seed, task=plan.task, variation=variation_of(plan))
    none = np.zeros((0, N_JOINTS), np.float32)
    episode = Episode(plan, True, 1, 0, none, none, ([], []), [], [])
    moments = _Moments(world, episode, every)
    held_out = plan.layout_seed < FIRST_TRAINING_LAYOUT
    for _ in range(PLACES):
        task = plan.task
        if task.kind != PUSH_TO_MARK:
            task = Task(str(rng.choice(RECOVERED_KINDS)), str(rng.choice(list(world.cubes))))
        words = task.instruction(int(rng.integers(1000)), held_out=held_out)
        colour = task.colour
        if rng.random() < OTHER_CUBE_SHARE:
            colour = str(rng.choice([other for other in world.cubes if other != colour]))
        try:
            for goal in Expert(world, Task(task.kind, colour), rng).go_astray(rng):
                if world.step(goal).goal is None:
                    break
            world.judge(task)
            moments.follow(Expert(world, task, rng).goals(), words)
        except Unreachable:  # a cube was pushed away
            break
    episode.succeeded = bool(moments.states)
    return moments.visits()


class _Moments:
    """What is kept of short ways of the expert."""

    def __init__(self, world: OfflineWorld, episode: Episode, every: int) -> None:
        self.states: list[np.ndarray] = []
        self._chunks: list[np.ndarray] = []
        self._instructions: list[str] = []
        self._world, self._episode, self._every = world, episode, every

    def follow(self, goals: Iterator[np.ndarray], words: str) -> None:
        """Send goals, and keep every `every`-th of the first ticks; what follows is only sent."""
        sent: list[np.ndarray] = []
        begun = len(self.states)
        for tick, goal in enumerate(itertools.islice(goals, SHOWN_TICKS + HORIZON)):
            if tick < SHOWN_TICKS and tick % self._every == 0:
                self._episode.see(self._world.observe(), tick)
                self.states.append(self._world.state())
            sent.append(goal.astype(np.float32))
            if self._world.step(goal).goal is None or self._world.succeeded:
                break
        for moment in range(len(self.states) - begun):
            chunk = sent[moment * self._every :][:HORIZON]
            self._chunks.append(np.array(chunk + [chunk[-1]] * (HORIZON - len(chunk))))
            self._instructions.append(words)

    def visits(self) -> Visits:
        """Return what was kept."""
        return Visits(
            self._episode,
            np.array(self.states, np.float32).reshape(-1, N_JOINTS),
            np.array(self._chunks, np.float32).reshape(-1, HORIZON, N_JOINTS),
            self._instructions,
        )


def visit_policy(
    world: OfflineWorld,
    plan: Plan,
    policy: Policy,
    every: int,
    settings: RolloutSettings,
    other_tasks: float = 0.0,
) -> Visits:
    """Have `policy` carry out a plan, and ask the expert at every `every`-th tick.

    `other_tasks` is the chance of a moment to ask for another task.
    """
    rng = np.random.default_rng((*plan.seed, 2))
    others = OtherTasks(world, plan, other_tasks)
    world.reset(plan.layout_seed, task=plan.task, variation=variation_of(plan))
    none = np.zeros((0, N_JOINTS), np.float32)
    episode = Episode(plan, False, 0, 0, none, none, ([], []), [], [])
    states, chunks, instructions = [], [], []
    if prepare(world, plan, rng):
        driver = Driver(policy, plan.instruction, int(rng.integers(2**31)), settings)
        end_s, tick = world.now_s + settings.limit_s, 0
        while not world.succeeded and world.now_s < end_s:
            if tick % every == 0:
                other = others.ask()
                words, chunk = other or (plan.instruction, advice(world, plan.task, rng))
                if chunk is None:
                    break
                episode.see(world.observe(), tick)
                states.append(world.state())
                chunks.append(chunk)
                instructions.append(words)
            verdict = world.step(driver.goal(world))
            episode.clamped_ticks += verdict.finding.outcome is not Outcome.PASS
            tick += 1
            if verdict.goal is None and verdict.outcome is Outcome.STOP:
                break
    episode.succeeded = world.succeeded
    return Visits(
        episode,
        np.array(states, np.float32).reshape(-1, N_JOINTS),
        np.array(chunks, np.float32).reshape(-1, HORIZON, N_JOINTS),
        instructions,
    )


def advice(world: OfflineWorld, task: Task, rng: np.random.Generator) -> np.ndarray | None:
    """Return the goals (HORIZON, 6) that the expert would send from now on; None where it gives up.

    The world is left as it is.
    """
    fork = world.fork()
    if fork.referee is None or fork.referee.task != task:
        fork.judge(task)
    goals: list[np.ndarray] = []
    try:
        for goal in Expert(fork, task, rng).goals():
            goals.append(goal.astype(np.float32))
            if len(goals) == HORIZON or fork.step(goal).goal is None:
                break
    except Unreachable:
        return None
    if not goals:
        return None
    return np.array(goals + [goals[-1]] * (HORIZON - len(goals)))
