"""What judging a bundle found, as its manifest keeps it, and what that allows.

`molmoact-quantize gate` compares what a bundle makes an arm do with what full precision does, and
writes the answer here. The entry holds a digest over the whole manifest, itself included, and so
over the digest of every file: an edited manifest, an altered weight or an entry copied from another
bundle is no answer any more. That finds mistakes; it does not say who wrote the entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import BundleError

if TYPE_CHECKING:
    from edge.manifest import Manifest

PASSED, FAILED = "passed", "failed"
WHOLE = "full precision"  # nothing was rounded: what others are judged against
UNJUDGED = "unjudged"
ALTERED = "altered"  # judged as something else than what it is now
ACCEPTABLE = (FAILED, UNJUDGED)  # what a run can be told to accept
_BYTES_A_WEIGHT = 4
_INLINE_BYTES = 1024  # smaller weights may lie in the graph's own file


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One thing that was asked of a bundle."""

    value: float
    limit: float
    at_least: bool  # True: the value must reach the limit; False: it must not exceed it

    @property
    def holds(self) -> bool:
        """True when the value keeps to the limit; never with NaN."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class GateEntry:
    """A verdict, what it rests on, and of what it was found."""

    verdict: str  # PASSED or FAILED
    checks: dict[str, GateCheck]  # by name; units are in the names
    figures: dict[str, float]  # what was measured besides
    actions: str  # continuous or discrete: the way of acting that was judged
    depth: str  # off, full or incremental
    norm_tag: str
    episodes: str  # where the observations came from: "sim", or the name of a dataset
    fingerprint: str  # of the dataset; "" for the sim, which is what its seed says
    seed: int
    observations: int
    trials: int  # closed-loop episodes on each side; 0: judged by its actions alone
    source_sha256: str  # of the checkpoint, which full precision was built from too
    machine: str
    judged_at: str  # ISO 8601, UTC
    judged_by: str
    keep: tuple[str, ...]  # PATTERN=FORMAT rules that would keep more bits, most needed first
    sha256: str  # see `entry_digest`


@dataclass(frozen=True, slots=True)
class Asked:
    """How a bundle is to act; a verdict on another way of acting, or another robot, is none."""

    actions: str
    norm_tag: str
    depth: str  # off, full or incremental


def judged_depth(manifest: Manifest) -> str:
    """Return the depth mode that a bundle passed its gate with; off for any other bundle."""
    return manifest.gate.depth if standing(manifest) == PASSED else "off"


def entry_digest(manifest: Manifest) -> str:
    """Hash a manifest with its gate entry, but for the entry's own digest; hexadecimal."""
    payload = asdict(manifest)
    payload["gate"].pop("sha256")
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def standing(manifest: Manifest) -> str:
    """Return WHOLE, UNJUDGED, PASSED, FAILED or ALTERED."""
    entry = manifest.gate
    if entry is None:
        return WHOLE if is_whole(manifest) else UNJUDGED
    if entry.sha256 != entry_digest(manifest) or entry.source_sha256 != manifest.source.sha256:
        return ALTERED
    return entry.verdict


def is_whole(manifest: Manifest) -> bool:
    """Tell whether nothing of the checkpoint was rounded, as far as sizes can show it."""
    exact = manifest.model.embedding_dtype == "float32" or manifest.source.dtype == "bfloat16"
    stored: dict[str, int] = {}
    for layer in manifest.recipe.layers.values():
        if layer.format != "fp32" or layer.size_bytes != _BYTES_A_WEIGHT * layer.weights:
            return False
        large = layer.size_bytes > _INLINE_BYTES
        stored[layer.graph] = stored.get(layer.graph, 0) + large * layer.size_bytes
    weights = {f"{graph}.onnx.data": size for graph, size in stored.items() if size}
    files = {n: file.size_bytes for n, file in manifest.files.items() if n.endswith(".onnx.data")}
    # Matrices are most of a file; what else lies there has no format to be rounded to.
    return (
        exact
        and weights.keys() == files.keys()
        and all(files[name] / 2 < size <= files[name] for name, size in weights.items())
    )


def check_standing(
    bundle: Path, manifest: Manifest, asked: Asked, accept: Collection[str] = ()
) -> str:
    """Return in a few words how a bundle stands; `BundleError` when it may not drive an arm.

    `accept` names what of ACCEPTABLE is run all the same.
    """
    found, entry = standing(manifest), manifest.gate
    if found == WHOLE:
        return "full precision, which others are judged against"
    judge = f"judge it with 'molmoact-quantize gate {bundle} --against WHOLE --episodes ...'"
    if found == FAILED:
        if FAILED in accept:
            return f"failed its gate ({_failures(entry)}), and was accepted"
        raise BundleError(
            f"{bundle}: failed its gate: {_failures(entry)}; 'molmoact-edge inspect {bundle}' says "
            "which layers to keep at more bits; to run it all the same, give --accept-failed"
        )
    if found == PASSED and Asked(entry.actions, entry.norm_tag, entry.depth) == asked:
        trials = f", {entry.trials} trials" if entry.trials else ", by its actions alone"
        on = f"{entry.episodes}, depth {entry.depth}{trials}"
        return f"passed its gate on {entry.judged_at[:10]} ({on})"
    why = {
        UNJUDGED: "never judged against full precision",
        ALTERED: "was altered after its gate, or the verdict is another bundle's",
        PASSED: f"never judged with {asked.actions} actions of norm tag {asked.norm_tag} and "
        f"depth {asked.depth}",
    }[found]
    if UNJUDGED in accept:
        return f"{why}, and was accepted"
    raise BundleError(f"{bundle}: {why}; {judge}, or give --accept-unjudged to run it all the same")


def check_text(name: str, check: GateCheck) -> str:
    """Show a check on one line: name, value and limit."""
    sign = "at least" if check.at_least else "at most"
    return f"{name} {check.value:.4g} ({sign} {check.limit:.4g})"


def _failures(entry: GateEntry) -> str:
    return ", ".join(check_text(n, check) for n, check in entry.checks.items() if not check.holds)
