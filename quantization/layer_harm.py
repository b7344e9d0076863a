"""From what was measured of layers to choices that bytes can be spent on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge.manifest import Manifest
from quantization.allocation import Choice
from quantization.fidelity.sensitivity import LayerSensitivity, block_of
from quantization.formats import parse_format

MOST_MATRICES = 200  # of which each is looked at by itself; blocks of those that have more
_EXPERT = "expert/"


def grouping(manifest: Manifest) -> Callable[[str], str]:
    """Return what names the group of a matrix: itself in small models, its block in large ones."""
    return str if len(manifest.recipe.layers) <= MOST_MATRICES else block_of


def stored_choices(layers: Iterable[LayerSensitivity]) -> dict[tuple[str, str], Choice]:
    """Return what each path in each format takes and does, by (path, format as in a rule).

    A block whose matrices differ in width has them in formats that differ in blocks; they are one
    choice, and their harms add up.
    """
    choices: dict[tuple[str, str], Choice] = {}
    for layer in layers:
        form = rule_format(layer.path, layer.format)
        before = choices.get((layer.path, form), Choice(form, 0, 0.0))
        choices[layer.path, form] = Choice(
            form, before.size_bytes + layer.bytes, before.harm + harm_of(layer)
        )
    return choices


def choices_of(layers: Iterable[LayerSensitivity]) -> dict[str, list[Choice]]:
    """Return by path what it can be, full precision without harm included."""
    layers = list(layers)
    choices: dict[str, list[Choice]] = {}
    for (path, form), choice in stored_choices(layers).items():
        if path not in choices:
            alike = [
                layer
                for layer in layers
                if layer.path == path and rule_format(path, layer.format) == form
            ]
            full = sum(layer.full_bytes for layer in alike)
            choices[path] = [Choice("fp32", full, 0.0)]
        choices[path].append(choice)
    return choices


def harm_of(layer: LayerSensitivity) -> float:
    """Return the square of what a layer alone does: mm2 at the fingertip, or shares of ranges."""
    error = layer.action_error if layer.tip_error_mm is None else layer.tip_error_mm
    return error**2


def rule_format(path: str, name: str) -> str:
    """Return the name under which a rule gives this format to matrices of any width."""
    form = parse_format(name)
    if not form.block:
        return name
    family = f"int{form.bits}" if form.bits == 4 else "int8-block"
    return block_format(path) if family == "int8-block" else family


def block_format(path: str) -> str:
    """Return 8 bits in blocks: large ones in the expert, which the shipped recipes give it too."""
    return "int8-large-block" if path.startswith(_EXPERT) else "int8-block"
