"""Results of trials on disk, a line each, so that a long measurement goes on where it ended.

A line is found again by what it is a result of: the bundle, the trial, the settings, the sources of
runtime, servos, simulated desk and profiles, and the machine with its onnxruntime and MuJoCo. One
journal serves any number of bundles; full precision is then tried once for all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from edge.manifest import read_manifest
from edge.report import machine_name
from edge.rung_verdicts import bundle_digest
from quantization.fidelity.errors import FidelityError

if TYPE_CHECKING:
    from sim.rollout import RolloutSettings, Trial, TrialResult

_PACKAGES = ("edge", "firmware_bridge", "sim", "profiles")
_SOURCES = (".py", ".xml", ".yaml")


class TrialJournal:
    """The results of a file, and of this run; without a file, of this run only."""

    def __init__(self, path: Path | None) -> None:
        """Read `path` if it is there; raise `FidelityError` when it is something else."""
        self._path = path
        self._results: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        try:
            lines = path.read_text("utf-8").splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise FidelityError(f"{path}: not a journal that can be read ({error})") from None
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # cut off by a kill
                entry = json.loads(line)
                self._results[entry["key"]] = entry["result"]
        if lines and not self._results:
            raise FidelityError(f"{path}: no line of it is a trial's; give another file")

    def find(self, key: str) -> TrialResult | None:
        """Return the result that was noted under `key`."""
        from sim.rollout import Trial, TrialResult

        found = self._results.get(key)
        if found is None:
            return None
        try:
            return TrialResult(**{**found, "trial": Trial(**found["trial"])})
        except (KeyError, TypeError):  # of another version
            return None

    def note(self, key: str, result: TrialResult) -> None:
        """Keep a result, on disk before this returns; raise `FidelityError`."""
        self._results[key] = asdict(result)
        if self._path is None:
            return
        line = json.dumps({"key": key, "result": self._results[key]})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            before = "\n" if self._path.exists() and not _ends_a_line(self._path) else ""
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{before}{line}\n")
        except OSError as error:
            raise FidelityError(f"{self._path}: cannot be written ({error.strerror})") from None


def trial_key(bundle: Path, actions: str | None, trial: Trial, settings: RolloutSettings) -> str:
    """Return under which name the journal keeps a trial of a bundle; raise `BundleError`."""
    return _digest(
        {
            "bundle": _bundle_digest(bundle),
            "actions": actions,
            "trial": asdict(trial),
            "settings": asdict(settings),
            "sources": _sources_digest(),
            "machine": machine_name(),
            "onnxruntime": onnxruntime.__version__,
            "mujoco": _version("mujoco"),
        }
    )


@cache
def _bundle_digest(bundle: Path) -> str:
    return bundle_digest(read_manifest(bundle))


@cache
def _sources_digest() -> str:
    """Sum up the sources of what acts in a trial."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        folders = [resources.files(package)]
        for folder in folders:
            for entry in folder.iterdir():
                if entry.is_dir():
                    folders.append(entry)
                elif entry.name.endswith(_SOURCES):
                    found[f"{package}/{folder.name}/{entry.name}"] = entry.read_text("utf-8")
    return _digest(found)


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):  # found results need no desk
        return metadata.version(package)
    return None


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return size == 0 or file.read(1) == b"\n"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
