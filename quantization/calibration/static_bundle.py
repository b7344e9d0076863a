"""Static INT8 by optimum's `ORTQuantizer`: a bundle beside which our own can be held.

optimum-onnx 0.1 wants transformers below 4.58, LeRobot 0.6 wants 5.4 or newer, so this runs in an
environment of its own (`make setup-calibration`). `ORTQuantizer` refuses graphs with branches
("Static quantization is currently not supported for models with subgraphs"), so the decoder stays
as it is. Unlike `int8-static` it quantises what a matrix gives as well as what it is given.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edge.bundle import CONTEXT, EXPERT, VISION, file_sha256, graph_files
from edge.manifest import MANIFEST_NAME, FileEntry, LayerEntry, Manifest, RecipeEntry, read_manifest
from quantization.calibration.calibrate import play
from quantization.calibration.graph_inputs import open_overheard
from quantization.calibration.input_statistics import PERCENTILE, silent
from quantization.errors import BuildError
from quantization.fidelity.observations import Sampling
from quantization.formats import INT8_STATIC
from quantization.graph import MICROSOFT
from quantization.recipes import RECIPES
from quantization.work_folder import work_folder

_GRAPHS = (VISION, CONTEXT, EXPERT)
_WEIGHT = ".weight"
_METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
_BINS = {
    "minmax": {},
    "entropy": {"num_bins": 512, "num_quantized_bins": 128},
    "percentile": {"num_bins": 2048, "percentile": PERCENTILE},
}


def build_static(
    bundle: Path,
    episodes: str,
    out: Path,
    *,
    sampling: Sampling,
    ranges: str,
    norm_tag: str | None = None,
    embodiment: str = "so101",
    threads: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> str:
    """Write `out`, a bundle with static INT8 where `ORTQuantizer` can; return what was done.

    Raises `BuildError` where optimum is not installed, and as `calibrate` does.
    """
    optimum = _optimum()
    if out.exists():
        raise BuildError(f"{out}: already exists; delete it or choose another path")
    manifest = read_manifest(bundle)
    names = [name for name in _GRAPHS if name in graph_files(manifest)]
    given: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in names}
    policy = open_overheard(bundle, names, lambda name, seen: given[name].append(seen), threads)
    count = play(policy, episodes, sampling, norm_tag, embodiment, progress)
    with work_folder(out, "building") as work:
        for file in manifest.files:
            (work / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle / file, work / file)
        layers = dict(manifest.recipe.layers)
        for name in names:
            layers |= _quantise(optimum, work / name, manifest, ranges, given[name])
        said = f"ORTQuantizer static, {ranges}, {count} observations of {Path(episodes).name}"
        recipe = RecipeEntry(name=said, layers=layers)
        (work / MANIFEST_NAME).write_text(_renewed(manifest, recipe, work).to_json())
        work.rename(out)
    return said


def _optimum() -> ModuleType:
    try:
        import optimum.onnxruntime
    except ImportError as error:
        raise BuildError(
            f"optimum-onnx cannot be imported here ({error}); 'make setup-calibration' makes an "
            "environment that has it, .venv-calibration/bin/molmoact-quantize runs there"
        ) from None
    logging.getLogger("optimum.onnxruntime.quantization").setLevel(logging.ERROR)
    return optimum.onnxruntime


def _quantise(
    optimum: ModuleType,
    path: Path,
    manifest: Manifest,
    ranges: str,
    given: list[dict[str, np.ndarray]],
) -> dict[str, LayerEntry]:
    """Put a quantised graph in the place of `path`; return what became of its matrices."""
    from onnxruntime.quantization import QuantFormat

    chosen = _chosen(path, manifest)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        config = _calibration(optimum, ranges, len(given))
        calibrator = config.create_calibrator(
            path.as_posix(),
            operators_to_quantize=["MatMul"],
            augmented_model_name=f"{folder}/augmented.onnx",
            use_external_data_format=True,
            force_symmetric_range=True,
        )
        with silent():
            for inputs in given:  # one by one: onnxruntime cannot stack prompts of unlike lengths
                calibrator.collect_data(_reader(inputs))
            found = calibrator.compute_data()
        optimum.ORTQuantizer(path).quantize(
            optimum.QuantizationConfig(
                is_static=True,
                format=QuantFormat.QDQ,
                per_channel=True,
                activations_symmetric=True,
                nodes_to_quantize=list(chosen),
                operators_to_quantize=["MatMul"],
                qdq_op_type_per_channel_support_to_axis={"MatMul": 1},
            ),
            save_dir=folder,
            file_suffix=None,
            calibration_tensors_range=found,
        )
        model = onnx.load(f"{folder}/{path.name}")
    for node in model.graph.node:  # onnxruntime 1.23 has no QuantizeLinear of opset 23
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = MICROSOFT
    entries = _entries(model, path, chosen, manifest)
    data = f"{path.name}.data"
    (path.parent / data).unlink()
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=1024)
    (path.parent / data).chmod(path.stat().st_mode)  # onnx makes it private
    return entries


def _chosen(path: Path, manifest: Manifest) -> dict[str, str]:
    """Map the nodes to quantise to their weights: those that the int8 recipe makes smaller."""
    model = onnx.load(path, load_external_data=False)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "MatMul" else ""
        layer = f"{path.stem}/{weight.removesuffix(_WEIGHT)}"
        if weight not in shapes or layer not in manifest.recipe.layers:
            continue
        if RECIPES["int8"](layer, shapes[weight][::-1]).bits < 32:
            found[node.name] = weight
    return found


def _calibration(optimum: ModuleType, ranges: str, count: int) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    return optimum.configuration.CalibrationConfig(
        dataset_name="episodes",
        dataset_config_name="",
        dataset_split="",
        dataset_num_samples=count,
        method=CalibrationMethod[_METHODS[ranges]],
        **_BINS[ranges],
    )


def _reader(inputs: dict[str, np.ndarray]) -> Any:
    """Hand out the inputs of one run, as they were given."""
    from onnxruntime.quantization import CalibrationDataReader

    class Recorded(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[dict[str, np.ndarray]] = iter([inputs])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    return Recorded()


def _entries(
    model: onnx.ModelProto, path: Path, chosen: dict[str, str], manifest: Manifest
) -> dict[str, LayerEntry]:
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    sources = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    entries = {}
    for weight in set(chosen.values()):
        layer = f"{path.stem}/{weight.removesuffix(_WEIGHT)}"
        source = numpy_helper.to_array(sources[weight])
        codes, scale = (
            numpy_helper.to_array(stored[f"{weight}_{kind}"]) for kind in ("quantized", "scale")
        )
        error = float(np.linalg.norm(codes * scale - source) / np.linalg.norm(source))
        entries[layer] = replace(
            manifest.recipe.layers[layer],
            size_bytes=codes.nbytes + scale.nbytes,
            format=INT8_STATIC.name,
            relative_error=round(error, 6),
            rounding_error=round(error, 6),
        )
    return entries


def _renewed(manifest: Manifest, recipe: RecipeEntry, work: Path) -> Manifest:
    files = {
        path.relative_to(work).as_posix(): FileEntry(path.stat().st_size, file_sha256(path))
        for path in sorted(work.rglob("*"))
        if path.is_file()
    }
    return replace(manifest, recipe=recipe, files=files)
