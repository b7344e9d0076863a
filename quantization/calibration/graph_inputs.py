"""Hear what a full-precision bundle's graphs are given, for calibrators that run them again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge.bundle import open_bundle
from edge.draft_window import FixedWindow
from edge.onnx_engine import EXPERT, OnnxDecoder, OnnxExpert, OnnxVision
from edge.onnx_session import EngineSettings, open_sessions
from edge.policy import Policy

HearInputs = Callable[[str, dict[str, np.ndarray]], object]  # a graph's file name, its inputs


def open_overheard(
    path: Path, graphs: Collection[str], hear: HearInputs, threads: int | None = None
) -> Policy:
    """Open a bundle as a policy that tells `hear` copies of what some `graphs` are given."""
    bundle = open_bundle(path)
    sessions: dict[str, Any] = dict(open_sessions(bundle, EngineSettings(threads)))
    for name in graphs:
        sessions[name] = _OverheardSession(sessions[name], name, hear)
    expert = OnnxExpert(bundle, sessions) if EXPERT in sessions else None
    window = FixedWindow(None)
    return Policy(bundle, OnnxVision(sessions), OnnxDecoder(bundle, sessions), expert, window)


class _OverheardSession:
    """What the engines use of an `onnxruntime.InferenceSession`."""

    def __init__(self, session: onnxruntime.InferenceSession, name: str, hear: HearInputs) -> None:
        self._session, self._name, self._hear = session, name, hear

    def io_binding(self) -> _OverheardBinding:
        return _OverheardBinding(self._session.io_binding())

    def run(self, names: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self._hear(self._name, {name: np.array(value) for name, value in inputs.items()})
        return self._session.run(names, inputs)

    def run_with_iobinding(self, binding: _OverheardBinding) -> None:
        self._hear(self._name, binding.inputs())
        self._session.run_with_iobinding(binding.binding)


class _OverheardBinding:
    """An `onnxruntime.IOBinding` that knows where its inputs lie."""

    def __init__(self, binding: onnxruntime.IOBinding) -> None:
        self.binding = binding
        self._places: dict[str, tuple[type, tuple[int, ...], int]] = {}

    def bind_input(
        self, name: str, device: str, number: int, dtype: type, shape: tuple[int, ...], place: int
    ) -> None:
        self._places[name] = dtype, shape, place
        self.binding.bind_input(name, device, number, dtype, shape, place)

    def bind_output(self, *given: Any) -> None:
        self.binding.bind_output(*given)

    def clear_binding_inputs(self) -> None:
        self._places.clear()
        self.binding.clear_binding_inputs()

    def clear_binding_outputs(self) -> None:
        self.binding.clear_binding_outputs()

    def inputs(self) -> dict[str, np.ndarray]:
        """Copy what lies there now."""
        found = {}
        for name, (dtype, shape, place) in self._places.items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            found[name] = np.frombuffer(ctypes.string_at(place, size), dtype).reshape(shape)
        return found
