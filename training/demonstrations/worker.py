"""Record single demonstrations in processes that know nothing of torch or of LeRobot.

A process has one world with an OpenGL context of its own and records whichever episode comes next;
an episode depends on its number and the settings alone, so neither on the process nor on what it
recorded before. Pictures go to the writer through files, because a pipe would hold them twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from edge.observation import DepthMode
from edge.policy import Policy
from sim.camera_process import CAMERA_NAMES
from sim.demonstration import STARTS, Plan, draw_plan
from sim.offline_world import PROFILE, OfflineWorld
from sim.rollout import RolloutSettings
from sim.visits import Visits, visit_beginnings, visit_expert, visit_policy, visit_recoveries
from training.demonstrations.true_depth import write_episode

FPS = 30
INSTRUCTIONS = "instructions.json"  # of every picture, in an episode's folder
MAX_ATTEMPTS = 8
LEAST_FRAMES = 2  # LeRobot 0.6.1 cannot join a video of one picture to others

_world: OfflineWorld | None = None
_policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What is recorded, the same for every episode."""

    seed: int
    size: tuple[int, int]  # width, height
    kinds: tuple[str, ...]
    varied: bool
    held_out: bool
    light_only: bool = False  # varied is the light alone
    every: int = 1  # ticks from picture to picture; above 1 chunks are recorded beside actions
    starts: tuple[tuple[str, float], ...] = tuple(STARTS.items())
    other_tasks: float = 0.0  # the chance of a moment to ask for something else
    policy: Path | None = None  # a bundle that drives, while the expert says what it would do
    depth: DepthMode = "off"  # how the policy is asked for it
    beginnings: bool = False  # the arm goes anywhere, and every cube is asked for
    recoveries: bool = False  # the arm goes astray, and the expert mends it

    @property
    def fps(self) -> int:
        """Pictures a second."""
        return FPS // self.every

    @property
    def has_chunks(self) -> bool:
        """Whether what follows a picture has to be recorded with it."""
        others = self.policy is not None or self.other_tasks > 0
        return self.every > 1 or others or self.beginnings or self.recoveries


@dataclass(frozen=True, slots=True)
class Recorded:
    """One successful episode; its arrays lie in `folder`."""

    number: int
    plan: Plan
    frames: int
    succeeded: bool
    attempts: int  # of the expert within the episode
    clamped_ticks: int
    thrown_away: int  # episodes that did not succeed before this one did
    wall_s: float
    folder: Path


class NeverSucceeded(Exception):  # noqa: N818 - of the scripted expert
    """The expert failed at every attempt at one episode."""


def serve(connection: Connection, settings: Settings, staging: Path) -> None:
    """Record the episodes whose numbers come, in a process of its own, until the other end closes.

    Answers each with a Recorded, or the NeverSucceeded that ended it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # Mesa's software renderer would share every picture among threads, for a fifth more work.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            number = connection.recv()
            try:
                connection.send(record(settings, number, staging))
            except NeverSucceeded as error:
                connection.send(error)


def record(settings: Settings, number: int, staging: Path) -> Recorded:
    """Record episode `number` into a folder of its own under `staging`.

    Raises NeverSucceeded after MAX_ATTEMPTS failures.
    """
    global _world
    if _world is None:
        _world = OfflineWorld(size=settings.size, depth=True)
        assert _world.rate_hz == FPS, "the arm profile's control rate is that of the datasets"
    started_s = time.monotonic()
    for attempt in range(MAX_ATTEMPTS):
        plan = draw_plan(
            settings.seed,
            number,
            attempt,
            kinds=settings.kinds,
            varied=settings.varied,
            held_out=settings.held_out,
            light_only=settings.light_only,
            starts=dict(settings.starts),
        )
        visits = _visits(_world, plan, settings)
        episode = visits.episode
        is_wanted = settings.policy is not None or episode.succeeded
        if is_wanted and len(visits.states) >= LEAST_FRAMES:
            folder = _store(visits, staging / f"{number:06d}")
            return Recorded(
                number=number,
                plan=episode.plan,
                frames=len(visits.states),
                succeeded=episode.succeeded,
                attempts=episode.attempts,
                clamped_ticks=episode.clamped_ticks,
                thrown_away=attempt,
                wall_s=time.monotonic() - started_s,
                folder=folder,
            )
    raise NeverSucceeded(f"episode {number}: the expert failed {MAX_ATTEMPTS} times")


def _visits(world: OfflineWorld, plan: Plan, settings: Settings) -> Visits:
    global _policy
    if settings.beginnings:
        return visit_beginnings(world, plan, settings.every)
    if settings.recoveries:
        return visit_recoveries(world, plan, settings.every)
    if settings.policy is None:
        return visit_expert(world, plan, settings.every, settings.other_tasks)
    if _policy is None:
        _policy = Policy.open(settings.policy, PROFILE)
    rollout = RolloutSettings(depth=settings.depth)
    return visit_policy(world, plan, _policy, settings.every, rollout, settings.other_tasks)


def _store(visits: Visits, folder: Path) -> Path:
    folder.mkdir()
    episode = visits.episode
    for camera, images in zip(CAMERA_NAMES, episode.images, strict=True):
        np.save(folder / f"{camera}.npy", np.stack(images))
    np.save(folder / "states.npy", visits.states)
    np.save(folder / "chunks.npy", visits.chunks)
    (folder / INSTRUCTIONS).write_text(json.dumps(visits.instructions), encoding="utf-8")
    write_episode(folder / "depth.npz", episode.depth_mm)
    return folder
