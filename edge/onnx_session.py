"""Load the graphs of a bundle into ONNX Runtime: settings, memory, and errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnxruntime

from edge.bundle import EMBEDDINGS, Bundle, graph_files
from edge.errors import BundleError, one_line
from edge.graph_shapes import graph_shapes, shape_problem
from edge.system_files import MEMORY, SystemFiles, memory_available_mib

onnxruntime.disable_telemetry_events()  # a robot reports to nobody

Sessions = dict[str, onnxruntime.InferenceSession]  # by the graph's file name


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine may use of the machine."""

    threads: int | None = None  # None: one per core
    spinning: bool = True  # threads wait for work awake


def open_sessions(bundle: Bundle, settings: EngineSettings) -> Sessions:
    """Load every graph of a bundle; raise `BundleError`, also where they cannot fit."""
    check_memory(bundle)
    _share_memory()
    return {name: _open(bundle, settings, name) for name in graph_files(bundle.manifest)}


def check_memory(bundle: Bundle, system: SystemFiles | None = None) -> None:
    """Raise `BundleError` when the graphs alone are more than the memory there is.

    What is refused here would otherwise end in the middle of loading, by the kernel's choice and
    without a word. Embeddings do not count: they are read from disk as they are needed.
    """
    system = SystemFiles(Path("/")) if system is None else system
    free_mib = memory_available_mib(system.text(MEMORY))
    sizes = {name: entry.size_bytes for name, entry in bundle.manifest.files.items()}
    need_mib = sum(size for name, size in sizes.items() if name != EMBEDDINGS) >> 20
    if free_mib is not None and need_mib > free_mib:
        raise BundleError(
            f"{bundle.path}: its graphs take {need_mib} MiB of memory or more, and this machine "
            f"has {int(free_mib)} MiB free; end what else runs, or build it with fewer bits"
        )


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn what onnxruntime raises while a graph runs into one line that names the graph."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (onnxruntime raises several unrelated kinds)
        raise BundleError(f"{name}: onnxruntime cannot run it: {one_line(error)}") from None


def session_options(settings: EngineSettings) -> onnxruntime.SessionOptions:
    """Return the options that every graph is loaded with."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # nothing on stderr: every failure is raised as well
    options.add_session_config_entry("session.use_env_allocators", "1")
    spinning = "1" if settings.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    return options


def _open(bundle: Bundle, settings: EngineSettings, name: str) -> onnxruntime.InferenceSession:
    """Load a graph; `BundleError` when it does not load or is not what the manifest implies."""
    path = bundle.path / name
    options = session_options(settings)
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  (onnxruntime raises several unrelated kinds)
        raise BundleError(f"{path}: onnxruntime cannot load it: {one_line(error)}") from None
    inputs, outputs = graph_shapes(bundle.manifest.model)[name]
    for kind, found, expected in (
        ("input", session.get_inputs(), inputs),
        ("output", session.get_outputs(), outputs),
    ):
        shapes = {value.name: tuple(value.shape) for value in found}
        if problem := shape_problem(kind, shapes, expected):
            raise BundleError(f"{path}: {problem}")
    return session


@cache
def _share_memory() -> None:
    """Let all graphs of the process work in one arena, which grows by what is asked and no more.

    Without an arena every large intermediate is given back to the system and its pages cleared
    again by the next layer: prefill attention at full size took 2.4 s instead of 0.95. With one
    arena a graph, and doubling as it grows, memory was 0.7 GiB higher.
    """
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    same_as_requested = {"arena_extend_strategy": 1}
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(same_as_requested))
