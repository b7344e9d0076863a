"""Check a bundle end to end: digests, graph inputs and outputs, every weight's place and size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import helper

from edge.bundle import graph_files, open_bundle
from edge.errors import BundleError, one_line
from edge.graph_shapes import Shapes, graph_shapes, shape_problem
from edge.manifest import Manifest


def verify_bundle(path: Path) -> Manifest:
    """Check everything about a bundle but its answers; raise `BundleError` naming the file."""
    bundle = open_bundle(path, trust_memory=False)
    manifest = bundle.manifest
    shapes = graph_shapes(manifest.model)
    for name in graph_files(manifest):
        inputs, outputs = shapes[name]
        model = _load(path / name)
        for kind, found, expected in (
            ("input", model.graph.input, inputs),
            ("output", model.graph.output, outputs),
        ):
            if problem := shape_problem(kind, _shapes(found), expected):
                raise BundleError(f"{path / name}: {problem}")
        for tensor in _initializers(model.graph):
            _check_tensor(path / name, tensor, manifest)
    return manifest


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(str(path))
    except Exception as error:  # noqa: BLE001  (protobuf and checker raise unrelated kinds)
        raise BundleError(f"{path}: not a graph this runtime reads ({one_line(error)})") from None
    return model


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> Shapes:
    return {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in values
    }


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
    file = place.get("location", "")  # a listed one: opening the bundle has checked that
    try:
        size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        offset, length = int(place.get("offset", 0)), int(place.get("length", -1))
    except (KeyError, ValueError) as error:
        raise BundleError(f"{path}: weight {tensor.name} is unreadable ({error})") from None
    for dim in tensor.dims:
        size *= dim
    if length != size or offset < 0 or offset + length > manifest.files[file].size_bytes:
        raise BundleError(
            f"{path}: weight {tensor.name} needs {size} bytes at {offset}, {file} gives {length}"
        )
