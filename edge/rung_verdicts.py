"""What trials said of a ladder's rungs: `ladder.json` beside a bundle's manifest.

`molmoact-quantize ladder` has a bundle do the same trials at a rung's settings and at none, and
writes here what came of it. A verdict is on settings as a whole, all rungs down to its own, on one
way of acting, and on the bundle as it was: the file names it by a digest over its manifest (without
the gate's entry), and holds a digest of itself. That finds mix-ups; it does not say who wrote it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import BundleError, shown
from edge.gate_entry import FAILED, PASSED, Asked, GateCheck
from edge.json_file import read_json
from edge.ladder_profile import CHANGES, DRAFT_WINDOW, HOLD, Rung

if TYPE_CHECKING:
    from edge.manifest import Manifest

LADDER_NAME = "ladder.json"
SCHEMA = "molmoact-edge.ladder.v1"
_MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RungVerdict:
    """What came of trials at some settings, beside the same trials at full pace."""

    settings: dict[str, float]  # see `settings_of`
    verdict: str  # PASSED or FAILED
    checks: dict[str, GateCheck]
    actions: str
    depth: str
    norm_tag: str
    trials: int
    seed: int
    replan_s: float  # at full pace, from call to call
    latency_s: float  # from observation to chunk, on both sides
    machine: str
    judged_at: str  # ISO 8601, UTC
    judged_by: str

    @property
    def failures(self) -> str:
        """What did not hold, with values and limits."""
        bad = {name: check for name, check in self.checks.items() if not check.holds}
        return ", ".join(
            f"{name} {check.value:.3g} (limit {check.limit:.3g})" for name, check in bad.items()
        )


def settings_of(rungs: Sequence[Rung]) -> dict[str, float]:
    """Return what rungs change together, the last of a kind counting.

    Draft windows and hold are not among them: the first changes no depth code, and a hold needs no
    trial.
    """
    return {rung.change: rung.value for rung in rungs if rung.change not in (DRAFT_WINDOW, HOLD)}


def find_verdict(
    verdicts: Sequence[RungVerdict], settings: Mapping[str, float], asked: Asked
) -> RungVerdict | None:
    """Return what was said of these settings in this way of acting, the newest if several."""
    wanted = (dict(settings), asked.actions, asked.norm_tag, asked.depth)
    for verdict in reversed(verdicts):
        if (verdict.settings, verdict.actions, verdict.norm_tag, verdict.depth) == wanted:
            return verdict
    return None


def read_verdicts(bundle: Path, manifest: Manifest) -> tuple[list[RungVerdict], str | None]:
    """Return the verdicts on a bundle, and why there are none where the file is no answer."""
    path = bundle / LADDER_NAME
    if not path.exists():
        return [], None
    try:
        payload = read_json(path, _MOST_BYTES)
        verdicts = _verdicts(payload, path)
    except BundleError as error:
        return [], str(error)
    if payload["bundle"] != bundle_digest(manifest):
        return [], f"{path}: is of another bundle, or this one was altered since"
    return verdicts, None


def verdicts_text(manifest: Manifest, verdicts: Sequence[RungVerdict]) -> str:
    """Return the file that `read_verdicts` reads back."""
    payload = {
        "schema": SCHEMA,
        "bundle": bundle_digest(manifest),
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    return json.dumps({**payload, "sha256": _digest(payload)}, indent=1, sort_keys=True) + "\n"


def bundle_digest(manifest: Manifest) -> str:
    """Hash everything that a manifest says but the gate's entry; hexadecimal."""
    payload = asdict(manifest)
    payload.pop("gate")
    return _digest(payload)


def _digest(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _verdicts(payload: Any, path: Path) -> list[RungVerdict]:
    if not isinstance(payload, dict) or payload.get("schema") != SCHEMA:
        found = shown(payload.get("schema") if isinstance(payload, dict) else payload)
        raise BundleError(f"{path}: schema is {found}, this runtime reads {SCHEMA!r}")
    rest = {key: value for key, value in payload.items() if key != "sha256"}
    if set(rest) != {"schema", "bundle", "verdicts"} or payload.get("sha256") != _digest(rest):
        raise BundleError(f"{path}: is not as it was written; judge the rungs again")
    try:
        return [_verdict(entry) for entry in payload["verdicts"]]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BundleError(f"{path}: holds what is no verdict ({error})") from None


def _verdict(entry: dict[str, Any]) -> RungVerdict:
    checks = {name: GateCheck(**check) for name, check in entry["checks"].items()}
    verdict = RungVerdict(**{**entry, "checks": checks})
    numbers = [*verdict.settings.values(), *(c.value for c in checks.values())]
    texts = [getattr(verdict, field.name) for field in fields(verdict) if field.type == "str"]
    if not set(verdict.settings) <= set(CHANGES) or not all(map(math.isfinite, numbers)):
        raise ValueError("settings or checks")
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise ValueError("a text")
    allowed = PASSED if all(check.holds for check in checks.values()) and checks else FAILED
    if verdict.verdict != allowed:
        raise ValueError(f"verdict {verdict.verdict}, its checks say {allowed}")
    return verdict
