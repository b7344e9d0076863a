"""Check a bundle end to end: digests, graph inputs and outputs, every weight's place and size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import helper

from edge.bundle import CONTEXT, DECODER, EXPERT, VISION, open_bundle
from edge.errors import BundleError
from edge.manifest import Manifest, ModelEntry

Shape = tuple[int | str, ...]


def verify_bundle(path: Path) -> Manifest:
    """Check everything about a bundle but its answers; raise `BundleError` naming the file."""
    bundle = open_bundle(path, trust_memory=False)
    manifest = bundle.manifest
    for name, (inputs, outputs) in _expected(manifest).items():
        model = _load(path / name)
        _check_values(path / name, "input", model.graph.input, inputs)
        _check_values(path / name, "output", model.graph.output, outputs)
        for tensor in _initializers(model.graph):
            _check_tensor(path / name, tensor, manifest)
    return manifest


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(str(path))
    except Exception as error:  # noqa: BLE001  (protobuf and checker raise unrelated kinds)
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(f"{path}: not a graph this runtime reads ({line})") from None
    return model


def _expected(manifest: Manifest) -> dict[str, tuple[dict[str, Shape], dict[str, Shape]]]:
    """State inputs and outputs of each graph; text is a size that varies from call to call."""
    model, layers = manifest.model, range(manifest.model.layers)
    pixels = model.image.patch_size**2 * 3
    rows, columns = model.image.grid
    pooled = model.image.pooling_height * model.image.pooling_width
    vision = (
        {"patches": ("crops", rows * columns, pixels), "pooling": ("tokens", pooled)},
        {"image_features": ("tokens", model.width)},
    )
    expert_inputs: dict[str, Shape] = {
        "actions": (1, "H", model.max_action_dim),
        "step": (1,),
        "cross_mask": ("H", "L"),
    }
    cross = {f"cross_{k}.{i}": (1, "L", model.expert_width) for i in layers for k in _KINDS}
    context: dict[str, Shape] = {
        f"{k}.{i}": (1, "L", model.kv_width) for i in layers for k in _KINDS
    }
    if model.depth_gate != "none":
        context |= {"pool": (1, "L"), "depth": ("L", 1)}
    return {
        VISION: vision,
        DECODER: _expected_decoder(model),
        CONTEXT: (context, cross),
        EXPERT: (expert_inputs | cross, {"velocity": (1, "H", model.max_action_dim)}),
    }


_KINDS = ("keys", "values")


def _expected_decoder(model: ModelEntry) -> tuple[dict[str, Shape], dict[str, Shape]]:
    layers, half = range(model.layers), model.head_dim // 2
    inputs: dict[str, Shape] = {
        "embeddings": (1, "T", model.width),
        "cos": (1, "T", half),
        "sin": (1, "T", half),
        "mask": ("T", "L"),
        "rows": ("R",),
    }
    inputs |= {f"past_{k}.{i}": (1, "P", model.kv_width) for i in layers for k in _KINDS}
    outputs: dict[str, Shape] = {
        f"{k}.{i}": (1, "T", model.kv_width) for i in layers for k in _KINDS
    }
    outputs["hidden"] = (1, "R", model.width)
    if model.depth_codes:
        outputs["logits"] = (1, "R", model.depth_codes)
    return inputs, outputs


def _check_values(
    path: Path, kind: str, found: list[onnx.ValueInfoProto], expected: dict[str, Shape]
) -> None:
    shapes = {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in found
    }
    for name in sorted(set(expected) | set(shapes)):
        if shapes.get(name) != expected.get(name):
            raise BundleError(
                f"{path}: {kind} {name} is {shapes.get(name, 'absent')}, the manifest implies "
                f"{expected.get(name, 'none')}; build the bundle again"
            )


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _initializers(attribute.g)


def _check_tensor(path: Path, tensor: onnx.TensorProto, manifest: Manifest) -> None:
    """Check that an external tensor lies whole inside a listed file of the bundle."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    place = {entry.key: entry.value for entry in tensor.external_data}
    file = place.get("location", "")
    if file not in manifest.files:
        raise BundleError(
            f"{path}: weight {tensor.name} is read from {file!r}, not in the manifest"
        )
    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    for dim in tensor.dims:
        size *= dim
    offset, length = int(place.get("offset", 0)), int(place.get("length", -1))
    if length != size or offset + length > manifest.files[file].size_bytes:
        raise BundleError(
            f"{path}: weight {tensor.name} needs {size} bytes at {offset}, {file} gives {length}"
        )
