"""Observations from the simulated desk, while the scripted expert does held-out tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from edge.joint_frame import JointFrame
from edge.normalization import RobotTag
from edge.profile import load_profile
from quantization.fidelity.desk import require_desk
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.observations import RecordedObservation, Sampling


def desk_observations(tag: RobotTag, sampling: Sampling) -> Iterator[RecordedObservation]:
    """Yield observations of whole episodes until there are enough; raise `FidelityError`."""
    require_desk()
    from sim.expert import Expert
    from sim.hand import Unreachable
    from sim.offline_world import PROFILE, OfflineWorld
    from sim.rollout import draw_trials, lay_out
    from sim.tasks import Task

    arm = load_profile(PROFILE).arm
    if tag.state.dim != len(arm.joints):
        raise FidelityError(
            f"norm tag {tag.name} has {tag.state.dim} joints, the simulated arm {len(arm.joints)}; "
            "give the folder of a dataset instead of 'sim'"
        )
    frame = JointFrame(arm.signs, arm.offsets_deg)
    world = OfflineWorld()
    stride = max(1, round(sampling.replan_s * world.rate_hz))
    left = sampling.samples
    try:
        trials = draw_trials(sampling.samples, sampling.seed, held_out=sampling.held_out)
        for number, trial in enumerate(trials):
            lay_out(world, trial)
            expert = Expert(
                world, Task(trial.kind, trial.colour), np.random.default_rng(trial.seed)
            )
            with contextlib.suppress(Unreachable):  # a cube that was pushed away ends the episode
                for tick, goal in enumerate(expert.goals()):
                    if left <= 0:
                        return
                    if tick % stride == 0:
                        seen = world.observe()
                        left -= 1
                        yield RecordedObservation(
                            episode=number,
                            t_s=tick / world.rate_hz,
                            images=seen.images,
                            task=trial.instruction,
                            state=frame.model_from_arm(seen.state.astype(np.float64)),
                        )
                    if world.step(goal).goal is None:
                        break
    finally:
        world.close()
