"""Take a calibration: play recorded observations to a full-precision bundle and listen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge.normalization import choose_tag
from edge.policy import Policy
from quantization.calibration.calibration_file import CalibrationCard, write_calibration
from quantization.calibration.input_statistics import RANGES, InputCollector
from quantization.calibration.listening import open_listening
from quantization.errors import BuildError
from quantization.fidelity.observations import Sampling, recorded_observations

SPANS = (256, 512, 1024, 2048, 4096)  # whole blocks of every format fit into each


def calibrate(
    bundle: Path,
    episodes: str,
    out: Path,
    *,
    sampling: Sampling,
    ranges: str = "minmax",
    span: int = 512,
    norm_tag: str | None = None,
    embodiment: str = "so101",
    threads: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> CalibrationCard:
    """Write the statistics of every matrix's inputs over `episodes` to the file `out`.

    `episodes` is the folder of a LeRobot v3 dataset, or "sim". Raises `BuildError`, `BundleError`
    or `FidelityError`; the output is whole or absent.
    """
    if ranges not in RANGES:
        raise BuildError(f"ranges {ranges!r} are unknown; choose one of {', '.join(RANGES)}")
    if span not in SPANS:
        raise BuildError(f"span {span} is not possible; choose one of {', '.join(map(str, SPANS))}")
    if out.exists():
        raise BuildError(f"{out}: already exists; delete it or choose another path")
    values: dict[str, str] = {}
    collector = InputCollector(span, ranges)

    def hear(layers: tuple[str, ...], rows: np.ndarray) -> None:
        values.update(dict.fromkeys(layers, layers[0]))
        collector.collect(layers[0], rows)

    policy = open_listening(bundle, hear, threads)
    count = play(policy, episodes, sampling, norm_tag, embodiment, progress)
    card = CalibrationCard(
        source_sha256=policy.bundle.manifest.source.sha256,
        episodes=Path(episodes).name,
        observations=count,
        seed=sampling.seed,
        ranges=ranges,
        span=span,
    )
    write_calibration(out, card, values, collector.statistics())
    return card


def play(
    policy: Policy,
    episodes: str,
    sampling: Sampling,
    norm_tag: str | None,
    embodiment: str,
    progress: Callable[[], object],
) -> int:
    """Show observations to a policy, as far apart as on the robot; return how many there were."""
    tag = choose_tag(policy.bundle.tags, norm_tag)
    model = policy.bundle.manifest.model
    random = np.random.default_rng(sampling.seed)
    shape = (1, tag.action_horizon, model.max_action_dim)
    count, episode = 0, None
    for seen in recorded_observations(episodes, tag, sampling, embodiment=embodiment):
        if seen.episode != episode:
            policy.reset()
            episode = seen.episode
        noise = random.standard_normal(shape, np.float32)
        policy.act(seen.images, seen.task, seen.state, tag.name, model.usual_depth, noise)
        count += 1
        progress()
    if not count:
        raise BuildError(f"{episodes}: no observations; give a dataset with longer episodes")
    return count
