"""A calibration: one file of statistics, and which matrix of which checkpoint they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from quantization.errors import BuildError

SCHEMA = "molmoact-edge.calibration.v1"
_PREFILL, _DECODER = "prefill/", "decoder/"


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """What was recorded of the rows that met a matrix."""

    rows: int
    moments: np.ndarray  # (windows, span, span) float32, mean of x_i * x_j; the last one padded
    limit: float  # of |x|: what a static scale makes the largest code


@dataclass(frozen=True, slots=True)
class CalibrationCard:
    """What a calibration was taken from."""

    source_sha256: str  # of the checkpoint, as bundles name it
    episodes: str
    observations: int
    seed: int
    ranges: str  # a method of quantization.calibration.input_statistics.RANGES
    span: int


class Calibration:
    """An open calibration; moments are read as they are asked for."""

    def __init__(self, path: Path) -> None:
        """Open `path`; raise `BuildError`."""
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
            header = self._file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise BuildError(f"{path}: cannot read the calibration: {error}") from None
        if header.get("schema") != SCHEMA:
            raise BuildError(
                f"{path}: not a calibration of this version ({SCHEMA}); make one with "
                "'molmoact-quantize calibrate'"
            )
        try:
            card = json.loads(header["card"])
            self.card = CalibrationCard(**{f.name: card[f.name] for f in fields(CalibrationCard)})
            self._values: dict[str, str] = json.loads(header["values"])
            self._seen: dict[str, list] = json.loads(header["seen"])
        except (KeyError, TypeError, ValueError):
            raise BuildError(f"{path}: damaged; make it again") from None

    def __contains__(self, layer: str) -> bool:
        """Tell whether inputs of the matrix at path `layer` were recorded."""
        return self._name(layer) is not None

    def statistics(self, layer: str, inputs: int) -> InputStatistics:
        """Give the statistics of a matrix with so many inputs; raise `BuildError`."""
        name = self._recorded(layer)
        rows, limit = self._seen[name]
        moments = self._file.get_tensor(name)
        windows, span = moments.shape[:2]
        if not (windows - 1) * span < inputs <= windows * span:
            raise BuildError(f"{self.path}: {layer} has {inputs} inputs, other ones were recorded")
        return InputStatistics(rows, moments, limit)

    def limit(self, layer: str) -> float:
        """Give the range of a matrix's inputs, see `InputStatistics`; raise `BuildError`."""
        return self._seen[self._recorded(layer)][1]

    def check_source(self, sha256: str) -> None:
        """Refuse the calibration of another checkpoint."""
        if self.card.source_sha256 != sha256:
            raise BuildError(
                f"{self.path}: was taken from another checkpoint ({self.card.source_sha256[:12]}, "
                f"this one is {sha256[:12]}); calibrate on an fp32 bundle of this one"
            )

    def _recorded(self, layer: str) -> str:
        name = self._name(layer)
        if name is None:
            raise BuildError(
                f"{self.path}: {layer} met no rows while calibrating; calibrate with a bundle that "
                "does what this one shall do"
            )
        return name

    def _name(self, layer: str) -> str | None:
        if layer in self._values:
            return self._values[layer]
        if layer.startswith(_PREFILL):  # the same matrix, stored once more for the prompt
            return self._values.get(_DECODER + layer.removeprefix(_PREFILL))
        return None


def write_calibration(
    path: Path,
    card: CalibrationCard,
    values: Mapping[str, str],
    statistics: Mapping[str, InputStatistics],
) -> None:
    """Write a calibration whole or not at all; `values` names the value that each matrix meets."""
    header = {
        "schema": SCHEMA,
        "card": json.dumps(asdict(card)),
        "values": json.dumps(dict(values)),
        "seen": json.dumps({name: [s.rows, s.limit] for name, s in statistics.items()}),
    }
    moments = {name: np.ascontiguousarray(s.moments) for name, s in statistics.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.parent / f".{path.name}.writing"
    try:
        save_file(moments, work, metadata=header)
        if path.exists():
            raise BuildError(f"{path}: already exists; delete it or choose another path")
        work.rename(path)
    finally:
        work.unlink(missing_ok=True)
