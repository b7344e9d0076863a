"""A bundle against its peers, on the same cores, in one run, each in a process of its own.

The public model (LeRobot's, in bfloat16 with the same weights) and every bundle get the same
pictures, prompt and state and find the same changed cells; llama.cpp gets the decoder alone, in
4 bits. They run one after the other, never at the same time, with the same number of threads.

What depth costs is counted twice: the depth stage, and what a call with depth takes longer than
one without. The second is what a robot waits for, and the only fair one where a draft is verified
inside the prefill; ratios use it for both sides.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.ceiling import Ceiling, higher, measure_ceiling
from benchmarks.errors import PeerError
from benchmarks.gguf_file import decoder_shape, misfit
from benchmarks.peer_figures import SideFigures, side_figures
from benchmarks.peer_job import WARM_UP_CALLS, Answer, Job, draw_scene
from benchmarks.peer_process import BUNDLE, LEROBOT, LLAMA, run_side
from benchmarks.peer_rows import LEROBOT_SIDE, LLAMA_SIDE, Row, compare
from edge.errors import BundleError
from edge.manifest import read_manifest
from edge.normalization import choose_tag, parse_tags
from edge.profile import load_profile
from edge.report import machine_name
from quantization.config import CheckpointConfig

_DTYPE = "bfloat16"
_LEROBOT_MISSING = "LeRobot is not installed here; run 'make setup' and use .venv/bin"
_LLAMA_MISSING = (
    "llama.cpp was left out: llama-cpp-python is not installed; "
    "install it into this environment with uv or pip (it is compiled, which takes minutes)"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the comparison is made."""

    profile: str
    calls: int
    cameras: int  # if the norm tag leaves it open
    changed_percent: int
    place: str  # where the changed cells are, one of peer_job.PLACES
    norm_tag: str | None
    llama: bool | None  # None: when it is installed
    scratch: Path | None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class PeerReport:
    """Everything `print_peers` prints, and the JSON line."""

    bench: str
    machine: str
    threads: int
    profile: str
    checkpoint: str
    source_sha256: str
    cameras: int
    prompt_tokens: int
    depth_cells: int
    changed_cells: list[int]
    place: str
    calls: int
    warm_up_calls: int
    ceiling: Ceiling
    sides: list[SideFigures]  # LeRobot, the bundles, llama.cpp
    rows: list[Row]
    left_out: list[str]


def measure_peers(
    checkpoint: Path,
    bundles: Sequence[Path],
    settings: Settings,
    *,
    dtype: str = _DTYPE,
    tell: Callable[[str], None] = lambda _line: None,
) -> PeerReport:
    """Run every side and check that they did the same work; raises `EdgeError`.

    `tell` hears what is going on, a line at a time.
    """
    if importlib.util.find_spec("lerobot") is None:
        raise PeerError(_LEROBOT_MISSING)
    profile = load_profile(settings.profile)
    from quantization.checkpoint import Checkpoint

    source = Checkpoint(checkpoint)
    config = source.config
    if config.expert is None:
        raise PeerError(f"{checkpoint}: has no action expert, whose actions could be compared")
    with_llama, left_out = _with_llama(settings.llama, config)
    manifests = {path: read_manifest(path) for path in bundles}
    tags = parse_tags(
        source.norm_stats, config.max_action_horizon, config.max_action_dim, config.n_obs_steps
    )
    tag = choose_tag(tags, settings.norm_tag)
    cameras = len(tag.cameras) or settings.cameras
    tell(f"checking that the bundles come from {checkpoint}")
    digest = source.source().sha256
    for path, manifest in manifests.items():
        if manifest.source.sha256 != digest:
            raise BundleError(f"{path} was not built from {checkpoint}; build it anew")
    tell("measuring the ceiling")
    ceiling = measure_ceiling(profile.board.threads)
    state = tag.state.unnormalize(np.zeros(tag.state.dim))
    scene = draw_scene(
        config.depth_cells, settings.changed_percent, settings.place, cameras, state, settings.seed
    )

    def job(bundle: Path | None = None, prompt_tokens: int | None = None) -> Job:
        return Job(
            checkpoint=str(checkpoint),
            bundle=str(bundle) if bundle else None,
            profile=settings.profile,
            norm_tag=tag.name,
            threads=ceiling.threads,
            calls=settings.calls,
            prompt_tokens=prompt_tokens,
            seed=settings.seed,
            dtype=dtype,
        )

    with tempfile.TemporaryDirectory(prefix="molmoact-peer.", dir=settings.scratch) as name:
        folder = Path(name)
        tell(f"LeRobot {version('lerobot')} in {dtype}")
        public, watched = run_side(LEROBOT, job(), scene, folder / LEROBOT)
        sides = [side_figures(LEROBOT_SIDE, dtype, public, watched, public)]
        for index, (path, manifest) in enumerate(manifests.items()):
            tell(f"{path} ({manifest.recipe.name})")
            answer, watched = run_side(BUNDLE, job(path), scene, folder / f"{BUNDLE}{index}")
            _check_same_work(path, answer, public)
            sides.append(side_figures(str(path), manifest.recipe.name, answer, watched, public))
        if with_llama:
            tell("llama.cpp with the decoder in Q4_0")
            asked = job(prompt_tokens=public.prompt_tokens)
            answer, watched = run_side(LLAMA, asked, scene, folder / LLAMA)
            sides.append(side_figures(LLAMA_SIDE, "Q4_0", answer, watched, public))
    ceiling = higher(ceiling, measure_ceiling(ceiling.threads))
    return PeerReport(
        bench="peer",
        machine=machine_name(),
        threads=ceiling.threads,
        profile=settings.profile,
        checkpoint=str(checkpoint),
        source_sha256=digest,
        cameras=cameras,
        prompt_tokens=public.prompt_tokens,
        depth_cells=config.depth_cells,
        changed_cells=public.changed,
        place=settings.place,
        calls=settings.calls,
        warm_up_calls=WARM_UP_CALLS,
        ceiling=ceiling,
        sides=sides,
        rows=compare(sides),
        left_out=left_out,
    )


def _with_llama(wanted: bool | None, config: CheckpointConfig) -> tuple[bool, list[str]]:
    """Decide whether llama.cpp takes part, and say why if it does not."""
    if wanted is False:
        return False, ["llama.cpp was left out, as asked"]
    problem = misfit(decoder_shape(config))
    if problem is not None:
        problem = f"llama.cpp was left out: {problem}"
    if importlib.util.find_spec("llama_cpp") is None:
        problem = _LLAMA_MISSING
    if wanted and problem is not None:
        raise PeerError(problem)
    return problem is None, [] if problem is None else [problem]


def _check_same_work(path: Path, answer: Answer, public: Answer) -> None:
    if answer.prompt_tokens != public.prompt_tokens:
        raise PeerError(
            f"{path}: the prompt has {answer.prompt_tokens} tokens, LeRobot's has "
            f"{public.prompt_tokens}; their tokenizers differ, so times cannot be compared"
        )
    if answer.changed != public.changed:
        raise PeerError(
            f"{path}: cells {answer.changed} changed, to LeRobot {public.changed}; times "
            "cannot be compared"
        )
