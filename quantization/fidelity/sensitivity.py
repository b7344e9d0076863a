"""What each matrix at few bits does to the actions by itself, everything else in full precision.

    for layer in layer_sensitivity("whole", {"int4": "int4"}, observations):
        print(layer.path, layer.format, layer.tip_error_mm)

Matrices come from bundles that exist, so one bundle a format says it for every matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime

from edge.bundle import DECODER, EXPERT, PREFILL, VISION, Bundle, open_bundle
from edge.draft_window import FixedWindow
from edge.engines import Vision
from edge.errors import one_line
from edge.manifest import LayerEntry
from edge.normalization import choose_tag
from edge.onnx_engine import OnnxDecoder, OnnxExpert, OnnxVision
from edge.onnx_session import EngineSettings, Sessions, open_sessions, session_options
from edge.policy import Policy
from edge.profile import load_profile
from quantization.fidelity.errors import FidelityError
from quantization.fidelity.observations import RecordedObservation
from quantization.fidelity.open_loop import Answers, Conditions, answers, check_same_source
from quantization.fidelity.robot_units import RobotUnits
from quantization.fidelity.transplant import Graph, transplanted

_FULL, _FLOAT_BYTES = "fp32", 4
_FOLDER_KEY = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """One matrix, or a group of them, in one format."""

    path: str  # of the matrix, or the pattern of the group, as recipes name them
    format: str
    bytes: int  # in this format
    full_bytes: int  # in full precision
    tip_error_mm: float | None  # mean over all actions; None for arms other than SO-100/101
    action_error: float  # mean over all actions and joints, as a share of the joint's range
    depth_codes_equal: float | None

    @property
    def harm(self) -> float:
        """What layers are sorted by: millimetres where there are tips, else shares of ranges."""
        return self.action_error if self.tip_error_mm is None else self.tip_error_mm


def layer_sensitivity(
    whole: Path,
    donors: Mapping[str, Path],
    observations: Iterable[RecordedObservation],
    conditions: Conditions | None = None,
    *,
    group: Callable[[str], str] = lambda path: path,
    only: str = "*",
    progress: Callable[[int, int], object] = lambda done, layers: None,
) -> list[LayerSensitivity]:
    """Judge every matrix that a donor stores smaller; the most harmful first.

    `donors` are bundles of the checkpoint of `whole`, which is in full precision, by any names.
    Matrices for which `group` gives the same name are taken together; `only` is a shell pattern for
    paths. Raises `EdgeError`.
    """
    conditions = conditions or Conditions()
    bench = _Bench(whole, observations, conditions)
    todo = [
        (donor, name, form, layers)
        for donor in (open_bundle(path) for path in donors.values())
        for (name, form), layers in _groups(bench.whole, donor, group, only).items()
    ]
    found = []
    for done, (donor, name, form, layers) in enumerate(todo):
        progress(done, len(todo))
        found.append(bench.judge(donor, name, form, layers))
    progress(len(todo), len(todo))
    return sorted(found, key=lambda layer: layer.harm, reverse=True)


def block_of(path: str) -> str:
    """Group the matrices of a transformer block: `decoder/blocks.3.q` to `decoder/blocks.3.*`."""
    graph, _, part = path.partition("/")
    steps = part.split(".")
    return f"{graph}/blocks.{steps[1]}.*" if steps[0] == "blocks" and len(steps) > 2 else path


class _Bench:
    """Full precision with its sessions open, and what it answered."""

    def __init__(
        self, whole: Path, observations: Iterable[RecordedObservation], conditions: Conditions
    ) -> None:
        profile = load_profile(conditions.profile)
        self._settings = EngineSettings(profile.board.threads, profile.board.spinning)
        self._conditions = conditions
        self.whole = open_bundle(whole)
        self._sessions = open_sessions(self.whole, self._settings)
        self._vision = _RememberedVision(OnnxVision(self._sessions))
        self._graphs: dict[Path, Graph] = {}
        tag = choose_tag(self.whole.tags, conditions.norm_tag)
        self._units = RobotUnits(tag, profile.arm)
        self._episodes = [
            list(part) for _, part in groupby(observations, key=lambda seen: seen.episode)
        ]
        if not self._episodes:
            raise FidelityError("no observation was given; record episodes, or give 'sim'")
        self._wanted = self._play(self._policy(self.whole, self._sessions))

    def judge(
        self, donor: Bundle, name: str, form: str, layers: Mapping[str, LayerEntry]
    ) -> LayerSensitivity:
        """Ask full precision with `layers`, by path, as the donor has them."""
        sessions = dict(self._sessions)
        for graph in dict.fromkeys(layer.graph for layer in layers.values()):
            parts = {
                path.removeprefix(f"{graph}/"): layer.format
                for path, layer in layers.items()
                if layer.graph == graph
            }
            sessions[f"{graph}.onnx"] = self._session(donor, graph, parts)
        if PREFILL in donor.manifest.files:  # its decoder serves the depth span only
            sessions.setdefault(PREFILL, self._sessions[DECODER])
        return self._judged(name, form, layers, self._policy(self._described(layers), sessions))

    def _described(self, layers: Mapping[str, LayerEntry]) -> Bundle:
        """Return full precision with a manifest that says what is taken over: engines read it."""
        manifest = self.whole.manifest
        recipe = replace(manifest.recipe, layers={**manifest.recipe.layers, **layers})
        return replace(self.whole, manifest=replace(manifest, recipe=recipe))

    def _judged(
        self, name: str, form: str, layers: Mapping[str, LayerEntry], policy: Policy
    ) -> LayerSensitivity:
        pairs = [
            (result, wanted)
            for ours, theirs in zip(self._play(policy), self._wanted, strict=True)
            for result, wanted in zip(ours.results, theirs.results, strict=True)
            if result is not None and wanted is not None
        ]
        if not pairs:
            raise FidelityError(f"{name} as {form}: no action tokens that mean a chunk are left")
        actions, others = (
            np.concatenate([pair[side].actions for pair in pairs]).astype(np.float64)
            for side in range(2)
        )
        tip_error_mm = equal = None
        if self._units.knows_tips:
            tip_error_mm = float(np.mean(self._units.tip_distances_mm(actions, others)))
        if pairs[0][1].depth_codes is not None:
            equal = float(
                np.mean([ours.depth_codes == wanted.depth_codes for ours, wanted in pairs])
            )
        return LayerSensitivity(
            path=name,
            format=form,
            bytes=sum(layer.size_bytes for layer in layers.values()),
            full_bytes=sum(_FLOAT_BYTES * layer.weights for layer in layers.values()),
            tip_error_mm=tip_error_mm,
            action_error=float(np.mean(np.abs(actions - others) / self._units.ranges)),
            depth_codes_equal=equal,
        )

    def _play(self, policy: Policy) -> list[Answers]:
        return [answers(policy, episode, self._conditions) for episode in self._episodes]

    def _policy(self, bundle: Bundle, sessions: Sessions) -> Policy:
        expert = OnnxExpert(bundle, sessions) if EXPERT in sessions else None
        same = sessions[VISION] is self._sessions[VISION]
        return Policy(
            bundle,
            self._vision if same else OnnxVision(sessions),
            OnnxDecoder(bundle, sessions),
            expert,
            FixedWindow(None),
            self._conditions.actions,
        )

    def _session(
        self, donor: Bundle, graph: str, parts: Mapping[str, str]
    ) -> onnxruntime.InferenceSession:
        file = f"{graph}.onnx"
        source = DECODER if file == PREFILL else file
        model = transplanted(
            self._graph(self.whole.path / source), self._graph(donor.path / file), parts
        )
        options = session_options(self._settings)
        options.add_session_config_entry(_FOLDER_KEY, str(self.whole.path.resolve()))
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, ["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  (onnxruntime raises several unrelated kinds)
            raise FidelityError(f"{donor.path / file}: {one_line(error)}") from None

    def _graph(self, path: Path) -> Graph:
        if path not in self._graphs:
            self._graphs[path] = Graph(path)
        return self._graphs[path]


class _RememberedVision:
    """Full precision's vision, which sees every picture once: half of the time of a small model."""

    def __init__(self, vision: Vision) -> None:
        self._vision = vision
        self._features: dict[bytes, np.ndarray] = {}

    def encode(self, patches: np.ndarray, pooling: np.ndarray) -> np.ndarray:
        """See `edge.engines.Vision`."""
        key = sha256(patches.tobytes() + pooling.tobytes()).digest()
        if key not in self._features:
            self._features[key] = self._vision.encode(patches, pooling)
        return self._features[key]


def _groups(
    whole: Bundle, donor: Bundle, group: Callable[[str], str], only: str
) -> dict[tuple[str, str], dict[str, LayerEntry]]:
    """Return by (name, format) the donor's matrices, by path, that are not in full precision."""
    check_same_source(donor, whole)
    groups: dict[tuple[str, str], dict[str, LayerEntry]] = {}
    for path, layer in donor.manifest.recipe.layers.items():
        if layer.format != _FULL and fnmatchcase(path, only):
            groups.setdefault((group(path), layer.format), {})[path] = layer
    return groups
