"""A full-precision graph that also gives what each of its matrices is multiplied with.

onnxruntime's own calibrators look at the outermost graph only; the decoder's last layer lies in a
branch, so values are led out of branches here: a branch that does not have them gives no rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from quantization.errors import BuildError

_WEIGHT = ".weight"
_BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True, slots=True)
class ObservedGraph:
    """A graph with more outputs, to be loaded with the data file of the one it was made from."""

    model: bytes
    outputs: dict[str, tuple[str, ...]]  # the matrices that meet each added output, by their paths


@dataclass(frozen=True, slots=True)
class _Seen:
    """A value that meets matrices, as its graph names it, and where it leaves that graph."""

    name: str
    width: int
    paths: tuple[str, ...]


def observe_graph(path: Path, layers: Collection[str]) -> ObservedGraph:
    """Add the inputs of `layers`, paths such as `decoder/blocks.0.q`, to the outputs of a graph.

    Raises `BuildError` when a matrix is not there as it is in a full-precision bundle.
    """
    model = onnx.load(path, load_external_data=False)
    widths = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer}
    wanted = {layer for layer in layers if layer.startswith(f"{path.stem}/")}
    observer = _Observer(path.stem, wanted, widths)
    seen = observer.lead_out(model.graph)
    found = {matrix for value in seen for matrix in value.paths}
    if missing := sorted(wanted - found):
        raise BuildError(
            f"{path}: {missing[0]} is not stored in full precision; calibrate on an fp32 bundle"
        )
    model.graph.output.extend(
        helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None) for value in seen
    )
    return ObservedGraph(model.SerializeToString(), {value.name: value.paths for value in seen})


class _Observer:
    def __init__(self, graph: str, layers: set[str], widths: dict[str, int]) -> None:
        self._graph, self._layers, self._widths = graph, layers, widths
        self._count = 0

    def lead_out(self, graph: onnx.GraphProto) -> list[_Seen]:
        """Give a name of its own to every value that meets a matrix here or in a branch below."""
        values: dict[str, list[str]] = {}
        widths: dict[str, int] = {}
        found: list[_Seen] = []
        for node in list(graph.node):
            weight = node.input[1] if node.op_type == "MatMul" else ""
            layer = f"{self._graph}/{weight.removesuffix(_WEIGHT)}"
            if weight.endswith(_WEIGHT) and layer in self._layers:
                values.setdefault(node.input[0], []).append(layer)
                widths[node.input[0]] = self._widths[weight]
            elif node.op_type == "If":
                found += self._lead_out_of_branches(node)
        for value, layers in values.items():
            seen = _Seen(self._fresh(), widths[value], tuple(layers))
            graph.node.append(helper.make_node("Identity", [value], [seen.name]))
            found.append(seen)
        return found

    def _lead_out_of_branches(self, node: onnx.NodeProto) -> list[_Seen]:
        branches = [item.g for item in node.attribute if item.name in _BRANCHES]
        seen = [self.lead_out(branch) for branch in branches]
        outside = []
        for index, values in enumerate(seen):
            for value in values:
                self._give(branches[index], value.name)
                self._give(branches[1 - index], self._nothing(branches[1 - index], value.width))
                outside.append(_Seen(self._fresh(), value.width, value.paths))
        node.output.extend(value.name for value in outside)
        return outside

    def _give(self, branch: onnx.GraphProto, name: str) -> None:
        branch.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def _nothing(self, branch: onnx.GraphProto, width: int) -> str:
        name = self._fresh()
        empty = helper.make_tensor(name, TensorProto.FLOAT, [1, 0, width], [])
        branch.node.append(helper.make_node("Constant", [], [name], value=empty))
        return name

    def _fresh(self) -> str:
        self._count += 1
        return f"observed_{self._count}"
