"""Take observations for the gate and for automatic recipes."""

from __future__ import annotations

from edge.normalization import RobotTag
from quantization.errors import BuildError
from quantization.fidelity.observations import (
    RecordedObservation,
    Sampling,
    recorded_observations,
)


def take_observations(
    episodes: str, tag: RobotTag, sampling: Sampling, embodiment: str
) -> list[RecordedObservation]:
    """Return observations of `episodes`, a dataset's folder or "sim"; all are held in memory.

    Raises `FidelityError`, or `BuildError` where this environment cannot read datasets.
    """
    try:
        return list(recorded_observations(episodes, tag, sampling, embodiment=embodiment))
    except ModuleNotFoundError as error:
        raise BuildError(
            f"{episodes}: {error.name} is not installed, which reads it; datasets need the "
            "workstation environment ('make setup', then .venv/bin/molmoact-quantize)"
        ) from None
