"""The least time that each stage of a call can take on a machine, from its measured ceiling.

A stage reads its weights once a pass, and multiplies every row it is given by every matrix:
whichever takes longer is its floor. Attention, norms and copies are not counted, nor are rows that
only some calls have (drafted depth tokens, detail crops), so a floor is low rather than high.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.ceiling import Ceiling
from edge.manifest import LayerEntry, Manifest

PREFILL, DECODER = "prefill", "decoder"  # graphs; few recipes give prefill one of its own


def floors_ms(
    manifest: Manifest,
    ceiling: Ceiling,
    *,
    cameras: int,
    prompt_tokens: int,
    depth_passes: int,
    horizon: int,
) -> dict[str, float]:
    """Return milliseconds a stage for one call; `depth_passes` includes the one in the prefill."""
    layers, model = manifest.recipe.layers, manifest.model
    prefill = prompt_graph(layers)
    grid_rows, grid_columns = model.image.grid
    patches = cameras * grid_rows * grid_columns
    return {
        "vision": max(
            _read_ms(of_graph(layers, "vision"), ceiling),
            _multiply_ms(of_graph(layers, "vision", "blocks."), patches, ceiling),
        ),
        "prefill": max(
            _read_ms(always_used(layers, prefill, model.layers), ceiling),
            _multiply_ms(always_used(layers, prefill, model.layers), prompt_tokens, ceiling),
        ),
        "depth": max(0, depth_passes - 1) * _read_ms(of_graph(layers, DECODER), ceiling),
        "expert": model.flow_steps
        * max(
            _read_ms(of_graph(layers, "expert"), ceiling),
            _multiply_ms(of_graph(layers, "expert"), horizon, ceiling),
        ),
    }


def prompt_graph(layers: Mapping[str, LayerEntry]) -> str:
    """Return the graph that the prompt goes through."""
    return PREFILL if any(layer.graph == PREFILL for layer in layers.values()) else DECODER


def of_graph(layers: Mapping[str, LayerEntry], graph: str, part: str = "") -> list[LayerEntry]:
    """Return the layers of a graph whose name within it begins with `part`."""
    return [layer for path, layer in layers.items() if path.startswith(f"{graph}/{part}")]


def always_used(layers: Mapping[str, LayerEntry], graph: str, blocks: int) -> list[LayerEntry]:
    """Return what every prompt row meets: all blocks, of the last one only keys and values."""
    last = f"{graph}/blocks.{blocks - 1}."
    return [
        layer
        for path, layer in layers.items()
        if path.startswith(f"{graph}/blocks.")
        and (not path.startswith(last) or path in (f"{last}k", f"{last}v"))
    ]


def _read_ms(layers: Iterable[LayerEntry], ceiling: Ceiling) -> float:
    return sum(layer.size_bytes for layer in layers) / ceiling.read_gb_s / 1e6


def _multiply_ms(layers: Iterable[LayerEntry], rows: int, ceiling: Ceiling) -> float:
    """Kernels for 4-bit and 8-bit weights multiply 8-bit integers."""
    total = 0.0
    for layer in layers:
        peak = ceiling.fp32_gflop_s if layer.format == "fp32" else ceiling.int8_gop_s
        total += 2 * layer.weights * rows / peak / 1e6
    return total
