"""How far a bundle is from full precision: its chunks, the tasks it does, and which layers cost it.

`quantization.fidelity` measures; here is what a person asks for with one command, and its file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.errors import FidelityBenchError
from edge.bundle import open_bundle
from edge.ladder_profile import Rung
from edge.normalization import choose_tag
from edge.observation import DepthMode
from edge.report import machine_name
from quantization.fidelity.closed_loop import ClosedLoopReport, Runner, measure_closed_loop
from quantization.fidelity.desk import require_desk
from quantization.fidelity.observations import (
    RecordedObservation,
    Sampling,
    recorded_observations,
)
from quantization.fidelity.open_loop import Conditions, check_same_source, measure_open_loop
from quantization.fidelity.report import OpenLoopReport

if TYPE_CHECKING:
    from quantization.fidelity.sensitivity import LayerSensitivity

SCHEMA = "molmoact-edge.fidelity.v1"


@dataclass(frozen=True, slots=True)
class OpenLoopOptions:
    """Which observations, and whether layers are looked at one by one."""

    episodes: str  # folder of a LeRobot v3 dataset, or "sim"
    embodiment: str
    sampling: Sampling
    layer_samples: int  # observations for each layer; 0 looks at none
    by_block: bool  # a block's matrices together


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """Which trials on the simulated desk."""

    trials: int
    kinds: tuple[str, ...]
    seed: int
    replan_s: float
    latency_s: float
    limit_s: float
    chunking: bool
    against_chunking: bool
    against_depth: DepthMode | None  # None is that of the bundle
    workers: int
    journal: Path | None
    rungs: tuple[Rung, ...]  # of a ladder, in effect for the bundle and not for full precision


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Everything that is printed, and the JSON."""

    schema: str
    machine: str
    bundle: str
    against: str
    episodes: str | None
    trial_seed: int | None
    open_loop: OpenLoopReport | None
    layers: list[LayerSensitivity]
    closed_loop: ClosedLoopReport | None


def measure_fidelity(
    bundle: Path,
    against: Path,
    conditions: Conditions,
    open_loop: OpenLoopOptions | None,
    trials: TrialOptions | None,
) -> Fidelity:
    """Measure what is asked for; raise `EdgeError`."""
    if open_loop is None and trials is None:
        raise FidelityBenchError(
            "nothing to measure; give --episodes DATASET or --episodes sim, --trials N, or both"
        )
    report, layers = None, []
    if open_loop is not None:
        check_same_source(*(open_bundle(path) for path in (bundle, against)))
        seen = _observations(against, conditions, open_loop)
        report = measure_open_loop(bundle, against, seen, conditions)
        if open_loop.layer_samples:
            layers = _layers(bundle, against, seen, conditions, open_loop)
    return Fidelity(
        schema=SCHEMA,
        machine=machine_name(),
        bundle=str(bundle),
        against=str(against),
        episodes=None if open_loop is None else open_loop.episodes,
        trial_seed=None if trials is None else trials.seed,
        open_loop=report,
        layers=layers,
        closed_loop=None if trials is None else _trials(bundle, against, conditions, trials),
    )


def fidelity_json(fidelity: Fidelity) -> dict[str, Any]:
    """Return the same as JSON has it."""
    return {"bench": "fidelity", **asdict(fidelity)}


def write_json(fidelity: Fidelity, path: Path) -> None:
    """Write the report to a new file, whole or not at all; raise `FidelityBenchError`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(fidelity_json(fidelity), indent=1) + "\n", "utf-8")
        partial.rename(path)
    except OSError as error:
        raise FidelityBenchError(f"{path}: cannot be written ({error.strerror})") from None


def _observations(
    against: Path, conditions: Conditions, options: OpenLoopOptions
) -> list[RecordedObservation]:
    from tqdm import tqdm

    tag = choose_tag(open_bundle(against).tags, conditions.norm_tag)
    found = recorded_observations(
        options.episodes, tag, options.sampling, embodiment=options.embodiment
    )
    with tqdm(found, unit="picture", leave=False, disable=None) as bar:
        return list(bar)


def _layers(
    bundle: Path,
    against: Path,
    seen: Sequence[RecordedObservation],
    conditions: Conditions,
    options: OpenLoopOptions,
) -> list[LayerSensitivity]:
    from quantization.fidelity.sensitivity import block_of, layer_sensitivity

    grouped = {"group": block_of} if options.by_block else {}
    with _counting("layer") as advance:
        return layer_sensitivity(
            against,
            {"this": bundle},
            seen[: options.layer_samples],
            conditions,
            **grouped,
            progress=advance,
        )


def _trials(
    bundle: Path, against: Path, conditions: Conditions, options: TrialOptions
) -> ClosedLoopReport:
    require_desk()
    from sim.rollout import RolloutSettings, at_rungs, draw_trials

    settings = RolloutSettings(
        replan_s=options.replan_s,
        latency_s=options.latency_s,
        limit_s=options.limit_s,
        depth=conditions.depth or open_bundle(bundle).manifest.model.usual_depth,
        chunking=options.chunking,
        norm_tag=conditions.norm_tag,
    )
    theirs = replace(
        settings,
        depth=options.against_depth or settings.depth,
        chunking=options.against_chunking,
    )
    with _counting("trial") as advance:
        return measure_closed_loop(
            Runner(bundle, at_rungs(settings, options.rungs), conditions.actions),
            Runner(against, theirs, conditions.actions),
            draw_trials(options.trials, options.seed, options.kinds),
            settings,
            workers=options.workers,
            journal=options.journal,
            progress=advance,
        )


@contextmanager
def _counting(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar where somebody watches; give what tells it how far things are."""
    from tqdm import tqdm

    with tqdm(unit=unit, leave=False, disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
