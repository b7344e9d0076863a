"""Moments of an episode with what the expert would do next: what corrections are made of.

Where the expert drives, its own next goals are known. Where a policy drives, the world is forked at
the moment and the expert goes on in the fork (DAgger, arXiv 1011.0686): so the policy is shown what
to do in the places to which its own mistakes bring it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge.policy import Policy
from edge.verdict import Outcome
from sim.demonstration import Episode, Plan, demonstrate, prepare, variation_of
from sim.expert import Expert
from sim.hand import Unreachable
from sim.joints import N_JOINTS
from sim.offline_world import OfflineWorld
from sim.rollout import Driver, RolloutSettings
from sim.tasks import Task

HORIZON = 30  # goals of a chunk, ticks of the world apart


@dataclass(slots=True)
class Visits:
    """N moments of one episode."""

    episode: Episode  # pictures, and whether the task was done; N `seen_ticks`
    states: np.ndarray  # (N, 6) float32, present positions
    chunks: np.ndarray  # (N, HORIZON, 6) float32, the expert's goals from then on


def visit_expert(world: OfflineWorld, plan: Plan, every: int) -> Visits:
    """Have the expert carry out a plan, and look at every `every`-th tick."""
    episode = demonstrate(world, plan, every=every)
    ticks = np.array(episode.seen_ticks, int)
    last = len(episode.actions) - 1
    chunks = episode.actions[np.minimum(ticks[:, None] + np.arange(HORIZON), last)]
    return Visits(episode, episode.states[ticks], chunks)


def visit_policy(
    world: OfflineWorld, plan: Plan, policy: Policy, every: int, settings: RolloutSettings
) -> Visits:
    """Have `policy` carry out a plan, and ask the expert at every `every`-th tick."""
    rng = np.random.default_rng((*plan.seed, 2))
    world.reset(plan.layout_seed, task=plan.task, variation=variation_of(plan))
    none = np.zeros((0, N_JOINTS), np.float32)
    episode = Episode(plan, False, 0, 0, none, none, ([], []), [], [])
    states, chunks = [], []
    if prepare(world, plan, rng):
        driver = Driver(policy, plan.instruction, int(rng.integers(2**31)), settings)
        end_s, tick = world.now_s + settings.limit_s, 0
        while not world.succeeded and world.now_s < end_s:
            if tick % every == 0:
                chunk = advice(world, plan.task, rng)
                if chunk is None:
                    break
                episode.see(world.observe(), tick)
                states.append(world.state())
                chunks.append(chunk)
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
    )


def advice(world: OfflineWorld, task: Task, rng: np.random.Generator) -> np.ndarray | None:
    """Return the goals (HORIZON, 6) that the expert would send from now on; None where it gives up.

    The world is left as it is.
    """
    fork = world.fork()
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
