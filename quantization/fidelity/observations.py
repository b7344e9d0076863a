"""Observations to judge a bundle by: what an arm saw and measured while a task was being done.

They come from a LeRobot v3 dataset, or from the simulated desk, where the scripted expert does
tasks that training never shows. An episode gives a run of observations as far apart as policy calls
are on the robot, so that depth codes and chunks follow one another as they do there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.normalization import RobotTag

SIM = "sim"


@dataclass(frozen=True, slots=True)
class RecordedObservation:
    """What `Policy.act` is given at one moment of an episode."""

    episode: int
    t_s: float  # since the episode began
    images: tuple[np.ndarray, ...]  # (height, width, 3) uint8 RGB, in prompt order
    task: str
    state: np.ndarray  # (dof,) float64, in the checkpoint's joint frame


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many observations are taken, and how."""

    samples: int = 100  # at most; a small dataset has fewer
    replan_s: float = 0.5  # between observations of an episode
    seed: int = 0
    held_out: bool = True  # of "sim": what training never sees; what is tuned on may not be judged


def recorded_observations(
    episodes: Path | str,
    tag: RobotTag,
    sampling: Sampling | None = None,
    *,
    embodiment: str = "so101",
) -> Iterator[RecordedObservation]:
    """Yield observations, episode by episode, from a dataset's folder or from "sim".

    `embodiment` says in which joint frame the dataset was recorded (`training.embodiments`). Raises
    `FidelityError` for a dataset that cannot be read, or that does not fit the norm tag.
    """
    sampling = sampling or Sampling()
    if str(episodes) == SIM:
        from quantization.fidelity.desk_observations import desk_observations

        return desk_observations(tag, sampling)
    from quantization.fidelity.dataset_observations import dataset_observations

    return dataset_observations(Path(episodes), tag, embodiment, sampling)
