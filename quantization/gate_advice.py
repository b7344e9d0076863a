"""Which layers to keep at more bits when a bundle failed its gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge.gate_entry import GateCheck
from edge.manifest import Manifest
from quantization.allocation import Choice, most_needed
from quantization.fidelity.observations import RecordedObservation
from quantization.fidelity.open_loop import Conditions
from quantization.fidelity.sensitivity import LayerSensitivity, layer_sensitivity
from quantization.layer_harm import block_format, grouping, stored_choices

MOST_OBSERVATIONS = 12  # to look at every layer with; a ranking needs fewer than a verdict
_MARGIN = 0.8  # of the harm that the limit allows, since layers are not quite independent
_OTHERWISE = 0.25  # of the harm there is, where what failed is not a distance
# Four bits more make a weight's error 16 times smaller and its harm 256 times; the harm that 8-bit
# activations do stays.
_STEP_HARM = 1 / 16
_DISTANCES = ("tip_mean_mm", "tip_p95_mm", "joint_mean_share")


def layers_to_keep(
    bundle: Path,
    against: Path,
    manifest: Manifest,
    seen: Sequence[RecordedObservation],
    conditions: Conditions,
    checks: Mapping[str, GateCheck],
    say: Callable[[str], object],
    progress: Callable[[int, int], object],
) -> tuple[str, ...]:
    """Return PATTERN=FORMAT rules that should bring the bundle within its limits, worst first."""
    seen = seen[:MOST_OBSERVATIONS]
    say(f"looking for the layers that do it, each alone on {len(seen)} observations")
    layers = layer_sensitivity(
        against, {"this": bundle}, seen, conditions, group=grouping(manifest), progress=progress
    )
    return advice(layers, checks)


def advice(layers: Sequence[LayerSensitivity], checks: Mapping[str, GateCheck]) -> tuple[str, ...]:
    """Return rules that give the layers with most harm the next larger format."""
    stored, better = {}, {}
    for (path, form), choice in stored_choices(layers).items():
        key = f"{path} {form}"
        stored[key] = choice
        better[key] = Choice(_next_format(path, form), 0, _STEP_HARM * choice.harm)
    wanted = wanted_share(checks) * sum(choice.harm for choice in stored.values())
    names = most_needed(stored, better, wanted)
    return tuple(f"{name.partition(' ')[0]}={better[name].format}" for name in names)


def wanted_share(checks: Mapping[str, GateCheck]) -> float:
    """Return the share of the harm there is that would pass the checks that failed."""
    failed = {name: check for name, check in checks.items() if not check.holds}
    distances = [check for name, check in failed.items() if name in _DISTANCES]
    shares = [_MARGIN * (check.limit / check.value) ** 2 for check in distances if check.value]
    if len(distances) < len(failed):
        shares.append(_OTHERWISE)
    return min(shares, default=1.0)


def _next_format(path: str, name: str) -> str:
    """Return the format that does less harm: scales for fewer inputs, then more bits."""
    form = block_format(path)
    return "fp32" if name == form else form
