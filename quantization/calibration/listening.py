"""Run a full-precision bundle as the robot does, and hear what meets each of its matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge.bundle import Bundle, graph_files, open_bundle
from edge.draft_window import FixedWindow
from edge.errors import BundleError, one_line
from edge.onnx_engine import EXPERT, OnnxDecoder, OnnxExpert, OnnxVision
from edge.policy import Policy
from quantization.calibration.observed_graph import ObservedGraph, observe_graph

Hear = Callable[[tuple[str, ...], np.ndarray], object]  # paths of matrices, (rows, inputs) float32


def open_listening(path: Path, hear: Hear, threads: int | None = None) -> Policy:
    """Open an fp32 bundle as a policy whose every call tells `hear` the inputs of its matrices.

    The arrays are views that hold until `hear` returns. Raises `BundleError`, and `BuildError` when
    a matrix is not stored in full precision.
    """
    bundle = open_bundle(path)
    sessions: dict[str, Any] = {
        name: _ListeningSession(bundle, name, hear, threads)
        for name in graph_files(bundle.manifest)
    }
    expert = OnnxExpert(bundle, sessions) if EXPERT in sessions else None
    window = FixedWindow(None)
    return Policy(bundle, OnnxVision(sessions), OnnxDecoder(bundle, sessions), expert, window)


class _ListeningSession:
    """What the engines use of an `onnxruntime.InferenceSession`, with ears."""

    def __init__(self, bundle: Bundle, name: str, hear: Hear, threads: int | None) -> None:
        graph = observe_graph(bundle.path / name, bundle.manifest.recipe.layers)
        self._session = _load(bundle.path, name, graph, threads)
        self._outputs, self._hear = graph.outputs, hear

    def io_binding(self) -> onnxruntime.IOBinding:
        return self._session.io_binding()

    def run(self, names: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        values = self._session.run([*names, *self._outputs], inputs)
        self._tell(values[len(names) :])
        return values[: len(names)]

    def run_with_iobinding(self, binding: onnxruntime.IOBinding) -> None:
        for name in self._outputs:  # bound last, so they are the last that come back
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()[-len(self._outputs) :]
        self._tell([value.numpy() for value in values])

    def _tell(self, values: Sequence[np.ndarray]) -> None:
        for paths, value in zip(self._outputs.values(), values, strict=True):
            if value.size:
                self._hear(paths, value.reshape(-1, value.shape[-1]))


def _load(
    folder: Path, name: str, graph: ObservedGraph, threads: int | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The graph comes from memory, its weights from the file beside the one it was made from.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(graph.model, options, ["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  (onnxruntime raises several unrelated kinds)
        reason = one_line(error)
        raise BundleError(f"{folder / name}: onnxruntime cannot load it: {reason}") from None
