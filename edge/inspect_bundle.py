"""Describe a bundle from its manifest: where it came from, how each part is stored, its size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from edge.gate_entry import ALTERED, UNJUDGED, WHOLE, check_text, standing
from edge.ladder_profile import CHANGES, DRAFT_WINDOW
from edge.manifest import CONTINUOUS, DISCRETE, LayerEntry, Manifest, read_manifest
from edge.rung_verdicts import read_verdicts

MIB = 1 << 20


def describe_bundle(path: Path) -> str:
    """Return the description as text; BundleError when the manifest cannot be believed.

    Digests are not checked here: 'molmoact-quantize verify' does that.
    """
    manifest = read_manifest(path)
    model, source, recipe = manifest.model, manifest.source, manifest.recipe
    depth = f"{model.depth_cells} cells of {model.depth_codes} codes, gate {model.depth_gate}"
    ways = []
    if CONTINUOUS in model.actions:
        ways.append(f"by {model.flow_steps} flow steps of an expert {model.expert_width} wide")
    if DISCRETE in model.actions:
        ways.append(f"as {model.action_codes} tokens")
    total_bytes = sum(entry.size_bytes for entry in manifest.files.values())
    lines = [
        f"bundle   {path}  ({manifest.schema}, made by {manifest.created_by})",
        f"source   {source.name}, {source.dtype}, sha256 {source.sha256[:16]}",
        f"recipe   {recipe.name}, {len(recipe.layers)} matrices",
        f"model    {model.layers} layers of {model.width}",
        f"actions  up to {model.max_action_horizon} of up to {model.max_action_dim} joints, "
        f"{' or '.join(ways)}",
        f"depth    {depth if model.depth_cells else 'the checkpoint has none'}",
        f"images   cut to {model.image.height}x{model.image.width} pixels",
        *_gate_lines(manifest),
        *_rung_lines(path, manifest),
        "",
        f"{'part':<12}{'matrices':>9}{'weights':>14}{'MiB':>10}{'bits each':>11}"
        f"{'worst error':>13}  stored as",
    ]
    graphs = sorted({layer.graph for layer in recipe.layers.values()})
    for graph in graphs:
        lines.append(_part_line(graph, [e for e in recipe.layers.values() if e.graph == graph]))
    if graphs:
        lines.append(_part_line("all", list(recipe.layers.values())))
    lines += ["", f"{'file':<38}{'MiB':>10}  sha256"]
    lines += [
        f"{name:<38}{entry.size_bytes / MIB:>10.2f}  {entry.sha256[:16]}"
        for name, entry in sorted(manifest.files.items())
    ]
    lines.append(f"{'all':<38}{total_bytes / MIB:>10.2f}")
    return "\n".join(lines)


def _gate_lines(manifest: Manifest) -> list[str]:
    """Tell how the bundle was judged, or that it never was."""
    found, entry = standing(manifest), manifest.gate
    if entry is None or found == ALTERED:
        note = {
            WHOLE: "full precision, which others are judged against",
            UNJUDGED: "never judged against full precision",
            ALTERED: "altered after it was judged, or the verdict is another bundle's",
        }[found]
        return [f"gate     {note}"]
    trials = f", {entry.trials} trials" if entry.trials else ""
    lines = [
        f"gate     {found} on {entry.judged_at}: {entry.actions} actions, depth {entry.depth}, "
        f"{entry.observations} observations of {entry.episodes}{trials}",
        *(
            f"         {'ok' if check.holds else 'NO':<4}{check_text(name, check)}"
            for name, check in entry.checks.items()
        ),
    ]
    if entry.keep:
        options = " ".join(f"--set '{rule}'" for rule in entry.keep)
        lines.append(f"         keep more bits: {options}")
    return lines


def _rung_lines(path: Path, manifest: Manifest) -> list[str]:
    """Tell what trials said of a ladder's rungs."""
    verdicts, problem = read_verdicts(path, manifest)
    lines = [] if problem is None else [f"rungs    {problem}"]
    for verdict in verdicts:
        names = [name for name in CHANGES if name in verdict.settings]
        settings = ", ".join(f"{name} {verdict.settings[name]:g}" for name in names)
        why = f" ({verdict.failures})" if verdict.failures else ""
        lines.append(
            f"rungs    {settings or DRAFT_WINDOW}: {verdict.verdict}{why} on {verdict.judged_at}, "
            f"{verdict.trials} trials, {verdict.actions} actions, depth {verdict.depth}"
        )
    return lines


def _part_line(name: str, layers: list[LayerEntry]) -> str:
    weights = sum(layer.weights for layer in layers)
    size_bytes = sum(layer.size_bytes for layer in layers)
    bits = f"{8.0 * size_bytes / weights:.2f}" if weights else "-"
    worst = max(layer.relative_error for layer in layers)
    formats = Counter(layer.format for layer in layers)
    stored = ", ".join(f"{count} {kind}" for kind, count in sorted(formats.items()))
    return (
        f"{name:<12}{len(layers):>9}{weights:>14,}{size_bytes / MIB:>10.2f}{bits:>11}"
        f"{worst:>12.2%}  {stored}"
    )
