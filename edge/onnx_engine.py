"""The stages on ONNX Runtime: bound buffers, one call per pass, keys and values never copied."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime

from edge.bundle import CONTEXT, DECODER, EXPERT, PREFILL, VISION, Bundle, EmbeddingTable
from edge.engines import KeysValues
from edge.errors import ObservationError
from edge.manifest import ModelEntry
from edge.onnx_session import EngineSettings, Sessions, open_sessions, running
from edge.pass_costs import PassCosts

_CACHE_STEP_ROWS = 128  # the cache grows in steps, so that a longer prompt seldom reallocates
_NO_PROMPT = np.zeros((0, 0), bool)
_MEASURED_ROWS = (1, 4, 16)
_MEASURED_PAST_ROWS = 64


def open_engines(
    bundle: Bundle, settings: EngineSettings
) -> tuple[OnnxVision, OnnxDecoder, OnnxExpert | None]:
    """Load every graph of a bundle, the expert if it has one; raise `BundleError`."""
    sessions = open_sessions(bundle, settings)
    expert = OnnxExpert(bundle, sessions) if EXPERT in sessions else None
    return OnnxVision(sessions), OnnxDecoder(bundle, sessions), expert


class OnnxVision:
    """`vision.onnx` behind the `Vision` protocol."""

    def __init__(self, sessions: Sessions) -> None:
        self._session = sessions[VISION]

    def encode(self, patches: np.ndarray, pooling: np.ndarray) -> np.ndarray:
        """See `edge.engines.Vision`."""
        with running(VISION):
            inputs = {"patches": patches, "pooling": pooling}
            return self._session.run(["image_features"], inputs)[0]


class OnnxDecoder:
    """`decoder.onnx` behind the `Decoder` protocol."""

    def __init__(self, bundle: Bundle, sessions: Sessions) -> None:
        self.length = 0
        self._prompt_length = 0
        self._model: ModelEntry = bundle.manifest.model
        self._embeddings: EmbeddingTable = bundle.embeddings
        self._decode = self._prefill = _Graph(DECODER, bundle, sessions)
        if PREFILL in sessions:
            self._prefill = _Graph(PREFILL, bundle, sessions)
        # One set of weights decides every depth code, so that no draft can change what comes out.
        self.prefill_decides = self._prefill is self._decode
        self.row_pairs = self._decode.pairs
        self._span_width = self._model.depth_cells + 3  # with start, end and a row that fills up
        self._cos, self._sin = _rotation(self._model)
        self._cache: list[tuple[np.ndarray, np.ndarray]] = []
        self._reserve(_CACHE_STEP_ROWS)

    def prefill(
        self, embeddings: np.ndarray, image_mask: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """See `edge.engines.Decoder`."""
        count, wanted = len(image_mask), len(embeddings)
        self.length, self._prompt_length = 0, count
        self._reserve(max(count + self._span_width, wanted + 1))
        mask = np.tri(count, dtype=bool)
        mask |= image_mask[:, None] & image_mask[None, :]
        if self._prefill.pairs and wanted > count and wanted % 2:
            embeddings = np.pad(embeddings, ((0, 1), (0, 0)))  # seen by no row, cut off below
        logits = self._run(embeddings, mask, rows)
        self.truncate(wanted)
        return logits

    def extend(self, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """See `edge.engines.Decoder`."""
        self._reserve(self.length + len(tokens))
        return self._run(self._embeddings.rows(tokens), _NO_PROMPT, rows)

    def truncate(self, length: int) -> None:
        """See `edge.engines.Decoder`."""
        self.length = min(self.length, length)

    def keys_values(self) -> KeysValues:
        """See `edge.engines.Decoder`."""
        return [(keys[:, : self.length], values[:, : self.length]) for keys, values in self._cache]

    def measure_passes(self) -> PassCosts:
        """Time passes of a few lengths over an empty scene; it also warms the weights up."""
        self._reserve(_MEASURED_PAST_ROWS + max(_MEASURED_ROWS))
        for keys, values in self._cache:
            keys[:, :_MEASURED_PAST_ROWS] = values[:, :_MEASURED_PAST_ROWS] = 0
        seconds = []
        for count in _MEASURED_ROWS:
            tokens, rows = np.zeros(count, np.int64), np.arange(count)
            for _ in range(2):  # the first one also brings pages in
                self.length = self._prompt_length = _MEASURED_PAST_ROWS
                started = time.perf_counter()
                self.extend(tokens, rows)
                last_s = time.perf_counter() - started
            seconds.append(last_s)
        self.length = 0
        return PassCosts(_MEASURED_ROWS, tuple(seconds))

    def _run(self, embeddings: np.ndarray, mask: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Run one pass; `mask` (T0, T0) is that of the prompt rows, if any, that come first."""
        count, past, prompt = len(embeddings), self.length, self._prompt_length
        graph = self._decode if past else self._prefill
        # Always as wide as the whole span: what changes between passes would change roundings.
        width = max(self._span_width, past + count - prompt)
        span_rows = np.arange(max(past, prompt), past + count)
        span_mask = np.arange(prompt + width) <= span_rows[:, None]
        binding, span = graph.binding, slice(past, past + count)
        before, behind = slice(0, min(past, prompt)), slice(prompt, max(past, prompt))
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        kept = [
            _bind_input(binding, "embeddings", embeddings[None]),
            _bind_input(binding, "prompt_mask", mask),
            _bind_input(binding, "span_mask", span_mask),
            _bind_input(binding, "cos", self._cos[:, span]),
            _bind_input(binding, "sin", self._sin[:, span]),
            _bind_input(binding, "rows", np.asarray(rows, np.int64)),
        ]
        for index, (keys, values) in enumerate(self._cache):
            for kind, cache in (("keys", keys), ("values", values)):
                _bind_input(binding, f"past_{kind}.{index}", cache[:, before])
                _bind_input(binding, f"span_{kind}.{index}", cache[:, behind])
                _bind_output(binding, f"{kind}.{index}", cache[:, span])
        logits = np.empty((1, len(rows), self._model.head_rows), np.float32)
        if self._model.head_rows:
            _bind_output(binding, "logits", logits)
        with running(graph.name):
            graph.session.run_with_iobinding(binding)
        del kept
        self.length = past + count
        return logits[0]

    def _reserve(self, rows: int) -> None:
        """Make room for `rows` in all; those in the cache stay."""
        if rows > self._model.max_positions:
            raise ObservationError(
                f"decoder: the prompt needs {rows} positions with its answer, the model has "
                f"{self._model.max_positions}; use fewer cameras or a shorter task"
            )
        if self._cache and rows <= self._cache[0][0].shape[1]:
            return
        rows = min(-(-rows // _CACHE_STEP_ROWS) * _CACHE_STEP_ROWS, self._model.max_positions)
        if not self._cache:
            empty = np.empty((1, 0, self._model.kv_width), np.float32)
            self._cache = [(empty, empty)] * self._model.layers
        for index, pair in enumerate(self._cache):  # one layer at a time: both copies are large
            self._cache[index] = tuple(self._longer(old, rows) for old in pair)

    def _longer(self, old: np.ndarray, rows: int) -> np.ndarray:
        new = np.empty((1, rows, self._model.kv_width), np.float32)
        new[:, : self.length] = old[:, : self.length]
        return new


class OnnxExpert:
    """`context.onnx` and `expert.onnx` behind the `Expert` protocol."""

    def __init__(self, bundle: Bundle, sessions: Sessions) -> None:
        self._model: ModelEntry = bundle.manifest.model
        self._context = sessions[CONTEXT]
        self._expert = sessions[EXPERT]
        self._binding = self._expert.io_binding()
        self._cross: list[tuple[np.ndarray, np.ndarray]] = []
        self._visible = np.zeros(0, bool)
        self._mask = np.zeros((0, 0), bool)
        self._actions = np.zeros((1, 0, self._model.max_action_dim), np.float32)
        self._velocity = self._actions.copy()
        self._step = np.zeros(1, np.int64)

    def prepare(self, keys_values: KeysValues, visible: np.ndarray, depth: np.ndarray) -> None:
        """See `edge.engines.Expert`."""
        length = len(visible)
        if not self._cross or self._cross[0][0].shape[1] != length:
            shape = (1, length, self._model.expert_width)
            self._cross = []  # let go of the old buffers before asking for new ones
            self._cross = [
                (np.empty(shape, np.float32), np.empty(shape, np.float32)) for _ in keys_values
            ]
        binding = self._context.io_binding()
        kept = []
        if self._model.depth_gate != "none":
            depth = depth & visible
            pooled = visible & ~depth if np.any(visible & ~depth) else visible
            weights = (pooled / max(np.count_nonzero(pooled), 1)).astype(np.float32)
            kept.append(_bind_input(binding, "pool", weights[None]))
            kept.append(_bind_input(binding, "depth", depth[:, None]))
        pairs = zip(keys_values, self._cross, strict=True)
        for index, (source, target) in enumerate(pairs):
            for kind, given, wanted in zip(("keys", "values"), source, target, strict=True):
                _bind_input(binding, f"{kind}.{index}", given)
                _bind_output(binding, f"cross_{kind}.{index}", wanted)
        with running(CONTEXT):
            self._context.run_with_iobinding(binding)
        del kept
        self._visible = visible
        self._bind(self._actions.shape[1])

    def step(self, actions: np.ndarray, index: int) -> np.ndarray:
        """See `edge.engines.Expert`."""
        if actions.shape != self._actions.shape:
            self._bind(actions.shape[1])
        self._actions[:] = actions
        self._step[0] = index
        with running(EXPERT):
            self._expert.run_with_iobinding(self._binding)
        return self._velocity

    def _bind(self, horizon: int) -> None:
        """Bind the step's buffers once; every flow step then runs into the same memory."""
        shape = (1, horizon, self._model.max_action_dim)
        self._actions, self._velocity = np.zeros(shape, np.float32), np.empty(shape, np.float32)
        self._mask = np.tile(self._visible, (horizon, 1))
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        _bind_input(binding, "actions", self._actions)
        _bind_input(binding, "step", self._step)
        _bind_input(binding, "cross_mask", self._mask)
        for index, (keys, values) in enumerate(self._cross):
            _bind_input(binding, f"cross_keys.{index}", keys)
            _bind_input(binding, f"cross_values.{index}", values)
        _bind_output(binding, "velocity", self._velocity)


class _Graph:
    """A decoder graph, loaded, and what is bound to it."""

    def __init__(self, name: str, bundle: Bundle, sessions: Sessions) -> None:
        self.name, self.session = name, sessions[name]
        self.binding = self.session.io_binding()
        # The block-wise kernel takes rows two at a time and adds an odd last one up in another way.
        layers, graph = bundle.manifest.recipe.layers.values(), name.removesuffix(".onnx")
        self.pairs = any("block" in layer.format for layer in layers if layer.graph == graph)


def _rotation(model: ModelEntry) -> tuple[np.ndarray, np.ndarray]:
    """Rotary tables for every position, (1, max_positions, head_dim / 2) float32."""
    exponents = np.arange(0, model.head_dim, 2, dtype=np.float32) / np.float32(model.head_dim)
    inverse = np.float32(1) / np.float32(model.rope_theta) ** exponents
    angles = np.arange(model.max_positions, dtype=np.float32)[:, None] * inverse
    return np.cos(angles)[None], np.sin(angles)[None]


def _bind_input(binding: onnxruntime.IOBinding, name: str, array: np.ndarray) -> np.ndarray:
    """Bind memory as it is; return the array so that the caller keeps it alive until the run."""
    array = np.ascontiguousarray(array)
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return array


def _bind_output(binding: onnxruntime.IOBinding, name: str, array: np.ndarray) -> None:
    """Let the run write into an array; it must be contiguous."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
