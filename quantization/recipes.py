"""Recipes: which format each matrix gets, as data.

A recipe is a list of (pattern, format) rules over paths such as `decoder/blocks.3.ff_proj`,
`vision/blocks.0.w1` or `expert/blocks.0.mlp.up_proj`; the last rule that matches decides. Patterns
are shell patterns. A rule for `prefill/...` gives the prompt weights of its own, beside those of
`decoder/...`, which then serve the depth span only. Formats are those of `quantization.formats`;
`int4`, `int8-block` and `int8-large-block` leave the block to the matrix's width. A recipe of one's
own is a YAML file:

    rules:
      "*": int4
      "vision/*": int8
      "decoder/blocks.0.*": int8-block32
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from edge.errors import BundleError
from edge.manifest import MANIFEST_NAME, read_manifest
from quantization.errors import BuildError
from quantization.formats import FP32, Format, parse_format

Rule = tuple[str, str]  # shell pattern over paths, name of a format

_PREFILL = "prefill/"
_MOST_TOLD = 3  # rules that a recipe's name lists; the manifest has all of them
_WIDE_INPUTS = 1024  # from here on a block of 128 inputs, the fastest on CPUs, is still local
# Names that leave the block to the matrix: the inputs from which on it is 128, else 32.
_BY_WIDTH = {"int4": _WIDE_INPUTS, "int8-block": _WIDE_INPUTS, "int8-large-block": 512}

# A few weights at the edge of the model: nothing to gain, and their errors are direct.
EDGES: tuple[Rule, ...] = (
    ("vision/patch_embedding", "fp32"),
    ("expert/action_embed", "fp32"),
    ("expert/final_layer.*", "fp32"),
    ("context/depth_gate.*", "fp32"),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules under a name; calling it gives the format of a matrix."""

    name: str
    rules: tuple[Rule, ...]

    def __call__(self, path: str, shape: tuple[int, int]) -> Format:
        """Return the format for the matrix at `path`, `shape` (outputs, inputs)."""
        names = [name for pattern, name in self.rules if fnmatchcase(path, pattern)]
        if not names:
            return FP32
        return _sized(names[-1], shape[1])

    @property
    def splits_prefill(self) -> bool:
        """True when prefill has weights of its own."""
        return any(pattern.startswith(_PREFILL) for pattern, _ in self.rules)

    @property
    def keeps_everything(self) -> bool:
        """True when no rule makes anything smaller."""
        return all(name == FP32.name for _, name in self.rules)

    def with_rules(self, rules: Iterable[Rule]) -> Recipe:
        """Return this recipe with `rules` after its own; the name says so."""
        rules = tuple(rules)
        told = [f"{pattern}={form}" for pattern, form in rules]
        if len(told) > _MOST_TOLD:
            told = [f"{len(told)} rules"]
        name = ", ".join([self.name, *told])
        return _checked(Recipe(name, self.rules + rules)) if rules else self


_INT8_EVERYWHERE: Rule = ("*", "int8")
# Few rows, many steps: as fast as W8A8 there and closer to the source. At full size (768 inputs)
# blocks of 32 made a call's flow steps 0.3 s slower; at nano size 128 are more than a row, and int8
# was worse than int4.
_EXPERT_BYTES: Rule = ("expert/*", "int8-large-block")
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # The form that must agree with the reference.
        Recipe("fp32", (("*", "fp32"),)),
        # 8-bit weights; 8-bit activations too where many rows meet a matrix at once.
        Recipe(
            "int8",
            (
                _INT8_EVERYWHERE,
                _EXPERT_BYTES,
                ("decoder/head", "fp32"),  # small, and its sums must not hang on a pass's rows
                *EDGES,
            ),
        ),
        # The smallest: 4-bit weights in blocks, everywhere.
        Recipe("int4", (("*", "int4"), *EDGES)),
        # The fastest where memory holds both: INT8 for the prompt, INT4 for what is decoded.
        Recipe(
            "int8-int4",
            (
                _INT8_EVERYWHERE,
                ("prefill/*", "int8"),
                ("decoder/*", "int4"),
                _EXPERT_BYTES,
                *EDGES,
            ),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """Return the shipped recipe called `name`, or the one in a file; raise `BuildError`.

    A file is YAML, or the manifest of a bundle to be built again.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name))
    if Path(name).name == MANIFEST_NAME:
        return _recorded(Path(name))
    if name not in RECIPES:
        raise BuildError(
            f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}, auto, a .yaml file, "
            f"or a bundle's {MANIFEST_NAME}"
        )
    return RECIPES[name]


def parse_rule(text: str) -> Rule:
    """Read `PATTERN=FORMAT`; raise `BuildError`."""
    pattern, equals, form = text.partition("=")
    if not equals or not pattern:
        raise BuildError(f"rule {text!r} is not PATTERN=FORMAT, for example 'vision/*=int8'")
    _sized(form, _WIDE_INPUTS)
    return pattern, form


def _read(path: Path) -> Recipe:
    try:
        payload = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise BuildError(f"{path}: cannot read the recipe: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise BuildError(f"{path}: not a recipe that YAML reads ({line})") from None
    rules = payload.get("rules") if isinstance(payload, dict) else None
    fits = isinstance(rules, dict) and set(payload) == {"rules"} and rules
    if not fits or not all(isinstance(text, str) for rule in rules.items() for text in rule):
        raise BuildError(
            f"{path}: a recipe is 'rules:' with lines PATTERN: FORMAT; for example '\"*\": int4'"
        )
    try:
        return _checked(Recipe(path.stem, tuple(rules.items())))
    except BuildError as error:
        raise BuildError(f"{path}: {error}") from None


def _recorded(path: Path) -> Recipe:
    """Return the recipe that a bundle was built with."""
    try:
        entry = read_manifest(path.parent).recipe
    except BundleError as error:
        raise BuildError(str(error)) from None
    if not entry.rules:
        raise BuildError(f"{path}: recipe {entry.name} has no rules; it cannot be built again so")
    try:
        return _checked(Recipe(entry.name, tuple((rule[0], rule[1]) for rule in entry.rules)))
    except BuildError as error:
        raise BuildError(f"{path}: {error}") from None


def _checked(recipe: Recipe) -> Recipe:
    for _, form in recipe.rules:
        _sized(form, _WIDE_INPUTS)
    return recipe


def _sized(name: str, inputs: int) -> Format:
    if name in _BY_WIDTH:
        name = f"{name[:4]}-block{128 if inputs >= _BY_WIDTH[name] else 32}"
    return parse_format(name)
