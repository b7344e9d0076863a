"""Find a recipe for a checkpoint under a ceiling of bytes, by what each matrix does to the arm.

Every matrix is put alone into full precision in each form it could have, as bundles of the
checkpoint store it, and what that does to the actions is measured. `quantization.allocation` then
spends the bytes. The result is a recipe like any other, so a build from it measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.bundle import open_bundle
from edge.manifest import Manifest
from edge.normalization import choose_tag
from edge.profile import load_profile
from quantization.allocation import Allocation, Choice, allocate
from quantization.build import build_bundle
from quantization.errors import BuildError
from quantization.fidelity.observations import Sampling, recorded_observations
from quantization.fidelity.open_loop import Conditions
from quantization.fidelity.sensitivity import LayerSensitivity, layer_sensitivity
from quantization.layer_harm import block_format, choices_of, grouping
from quantization.recipes import EDGES, Recipe, Rule
from quantization.work_folder import work_folder

AUTO = "auto"
SAMPLES = 12
_TRIES = 8  # to meet the ceiling: what a graph weighs besides its matrices depends on their forms
# What a matrix may become, besides float32; in the expert and the head, as in the shipped recipes,
# no 8 bits without blocks.
_DONORS: dict[str, tuple[Rule, ...]] = {
    "int4": (("*", "int4"),),
    "int8": (("*", "int8"), ("expert/*", "fp32"), ("decoder/head", "fp32")),
    "int8-block": (("*", "int8-block"), ("expert/*", block_format("expert/"))),
}
_SMALLEST = "int4"
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class AutoSettings:
    """Under which ceiling a recipe is looked for, and on what."""

    max_bytes: int
    episodes: str
    against: Path | None = None  # the checkpoint's fp32 bundle; None builds one meanwhile
    samples: int = SAMPLES
    seed: int = 0
    embodiment: str = "so101"
    norm_tag: str | None = None


def build_auto(
    checkpoint: Path,
    bundle: Path,
    settings: AutoSettings,
    rules: Sequence[Rule],
    say: Say,
    progress: Callable[[int, int], object],
    **options: object,
) -> Manifest:
    """Build `bundle` with the recipe found for it, and `rules` after it.

    `options` go to `build_bundle`. Raises `BuildError` or another `EdgeError`; the output is whole
    or absent.
    """
    if bundle.exists():
        raise BuildError(f"{bundle}: already exists; delete it or choose another path")
    with work_folder(bundle, AUTO) as work:
        whole = settings.against
        if whole is None:
            whole = work / "whole"
            build_bundle(checkpoint, whole, "fp32", **options)
        donors = {}
        for name, forms in _DONORS.items():
            recipe = Recipe(name, (*forms, *EDGES))
            donors[name] = build_bundle(checkpoint, work / name, recipe, **options)
        layers = _measure(whole, {name: work / name for name in donors}, donors, settings, progress)
        smallest = donors[_SMALLEST]
        say(f"{len(layers)} forms of {len({layer.path for layer in layers})} matrices measured")

        def build(path: Path, recipe: Recipe) -> Manifest:
            return build_bundle(checkpoint, path, recipe, rules, **options)

        return _build_within(bundle, work, layers, smallest, settings.max_bytes, build, say)


def ceiling_of(profile: str) -> int:
    """Return the bytes a bundle may have on a profile's board; `BuildError` when it says none."""
    board = load_profile(profile).board
    if board.bundle_mib is None:
        raise BuildError(
            f"board {board.name} of profile {profile} states no bundle_mib, the memory that it has "
            "for a bundle; give --max-bytes"
        )
    return board.bundle_mib << 20


def recipe_of(formats: Mapping[str, str], name: str = AUTO) -> Recipe:
    """Return the recipe of a format for each path; the commonest stands for all that have it."""
    base = Counter(sorted(formats.values())).most_common(1)[0][0]
    rules = [(path, form) for path, form in sorted(formats.items()) if form != base]
    return Recipe(name, (("*", base), *EDGES, *rules))


def fixed_bytes(smallest: Manifest, choices: Mapping[str, Iterable[Choice]]) -> int:
    """Return what a bundle holds besides the matrices that can be chosen for."""
    return _bundle_bytes(smallest) - sum(
        min(choice.size_bytes for choice in ways) for ways in choices.values()
    )


def _bundle_bytes(manifest: Manifest) -> int:
    files = sum(entry.size_bytes for entry in manifest.files.values())
    return files + len(manifest.to_json().encode())


def _measure(
    whole: Path,
    paths: Mapping[str, Path],
    donors: Mapping[str, Manifest],
    settings: AutoSettings,
    progress: Callable[[int, int], object],
) -> list[LayerSensitivity]:
    tag = choose_tag(open_bundle(whole).tags, settings.norm_tag)
    sampling = Sampling(settings.samples, seed=settings.seed, held_out=False)
    seen = list(
        recorded_observations(settings.episodes, tag, sampling, embodiment=settings.embodiment)
    )
    conditions = Conditions(norm_tag=settings.norm_tag, seed=settings.seed)
    group = grouping(donors[_SMALLEST])
    return layer_sensitivity(whole, paths, seen, conditions, group=group, progress=progress)


def _build_within(
    bundle: Path,
    work: Path,
    layers: list[LayerSensitivity],
    smallest: Manifest,
    max_bytes: int,
    build: Callable[[Path, Recipe], Manifest],
    say: Say,
) -> Manifest:
    """Build, and build again with less where graphs grew, until all files keep to the ceiling."""
    choices = choices_of(layers)
    fixed, excess = fixed_bytes(smallest, choices), 0
    for number in range(_TRIES):
        found = allocate(choices, max_bytes, fixed + excess)
        path = work / f"try{number}"
        manifest = build(path, recipe_of(found.formats))
        over = _bundle_bytes(manifest) - max_bytes
        if over <= 0:
            say(_told(found, layers))
            path.rename(bundle)
            return manifest
        excess = max(excess + over, 2 * excess)  # little may change no step of the allocation
    raise BuildError(f"{bundle}: no recipe within {max_bytes} bytes was found; give more")


def _told(found: Allocation, layers: Sequence[LayerSensitivity]) -> str:
    counts = ", ".join(f"{n} {form}" for form, n in sorted(Counter(found.formats.values()).items()))
    tips = any(layer.tip_error_mm is not None for layer in layers)
    unit = "mm at the fingertip" if tips else "of the joints' ranges"
    return f"chosen: {counts}; expected mean error {found.harm**0.5:.3g} {unit}"
