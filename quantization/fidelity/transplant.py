"""One matrix of a small bundle inside full precision's graph: what it alone does can be seen.

The weights are the small bundle's own, as they were packed and calibrated there; the rest of the
graph reads full precision's files. Nothing is written, and only what is taken over is held in
memory, so this works for a checkpoint of any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantization.fidelity.errors import FidelityError
from quantization.formats import INT8

# What multiplies, as `quantization.graph` writes it: in blocks; 8-bit activations, rows divided by
# their size first or with a step known beforehand; plain, behind such ones, or in full precision.
_BLOCKS, _ROWS, _PLAIN = "MatMulNBits", "MatMulIntegerToFloat", "MatMul"
_BIAS = 5  # input of the first; full precision adds it in a node of its own
_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
_BY_OPTIMUM = "_quantized"  # how its quantiser renames a weight
_MARK = "small/"


class Graph:
    """A graph file of a bundle, its weights left on disk."""

    def __init__(self, path: Path) -> None:
        """Read `path`; raise `FidelityError` when it is no graph."""
        self.folder = path.parent
        try:
            self.proto = onnx.load(path, load_external_data=False)
        except Exception as error:  # noqa: BLE001  (protobuf raises unrelated kinds)
            raise FidelityError(f"{path}: not a graph ({error})") from None
        self._tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        self._makers = {
            output: node
            for graph in _branches(self.proto.graph)
            for node in graph.node
            for output in node.output
        }

    def tensor(self, name: str) -> np.ndarray:
        """Read one weight or constant."""
        return numpy_helper.to_array(self._tensors[name], str(self.folder))

    def holds(self, name: str) -> bool:
        """Whether there is a weight or constant of that name."""
        return name in self._tensors

    def maker(self, value: str) -> onnx.NodeProto | None:
        """Return the node whose result `value` is, None for an input of the graph."""
        return self._makers.get(value)

    def product(self, part: str) -> onnx.NodeProto | None:
        """Return a node that multiplies by the matrix `part`, None when there is none."""
        wanted = {f"{part}.weight", f"{part}.weight{_BY_OPTIMUM}"}
        nodes = [node for graph in _branches(self.proto.graph) for node in graph.node]
        for node in nodes:
            if not wanted.isdisjoint(node.input):
                if node.op_type != _DEQUANTISE:
                    return node
                return next(user for user in nodes if node.output[0] in user.input)
        return None

    def source(self, product: onnx.NodeProto, by_rows: bool) -> tuple[str, str | None]:
        """Return what is multiplied, and what its rows were divided by (None: nothing)."""
        value = product.input[0]
        while (maker := self._makers.get(value)) and maker.op_type in (_QUANTISE, _DEQUANTISE):
            value = maker.input[0]
        if not by_rows:
            return value, None
        return self._makers[value].input[0], self._makers[value].input[1]


def transplanted(whole: Graph, small: Graph, parts: Mapping[str, str]) -> onnx.ModelProto:
    """Return `whole` with matrices as `small` stores them.

    `parts` gives the format of each by its name within the graph. Raises `FidelityError` when a
    matrix is not stored in a way that can be taken over.
    """
    model = onnx.ModelProto()
    model.CopyFrom(whole.proto)
    taken: dict[str, onnx.TensorProto] = {}
    for part, form in parts.items():
        found = small.product(part)
        if found is None or found.op_type not in (_BLOCKS, _ROWS, _PLAIN):
            kind = "absent" if found is None else f"read by {found.op_type}"
            raise FidelityError(f"{small.folder}: {part} is {kind}; it cannot be judged alone")
        places = 0
        for graph in _branches(model.graph):
            for node in [node for node in graph.node if f"{part}.weight" in node.input]:
                if node.op_type != _PLAIN:
                    raise FidelityError(
                        f"{whole.folder}: {part} is not in full precision; compare with a bundle "
                        "built with --recipe fp32"
                    )
                _Graft(small, found, f"{part}.{places}/", taken).replace(graph, node, form)
                places += 1
        if not places:
            raise FidelityError(f"{whole.folder}: no matrix {part}; it is of another checkpoint")
    model.graph.initializer.extend(taken.values())
    return model


class _Graft:
    """Copies of the nodes that lead from a matrix's input to its product."""

    def __init__(
        self,
        small: Graph,
        product: onnx.NodeProto,
        place: str,
        taken: dict[str, onnx.TensorProto],
    ) -> None:
        self._small, self._product, self._place, self._taken = small, product, place, taken
        self._nodes: list[onnx.NodeProto] = []
        self._names: dict[str, str] = {"": ""}

    def replace(self, graph: onnx.GraphProto, node: onnx.NodeProto, form: str) -> None:
        """Put the copies where `node` was: they read its input and give its result."""
        source, row_size = self._small.source(self._product, form == INT8.name)
        self._names[source] = node.input[0]
        inputs = [self._copy(name) for name in self._product.input[:_BIAS]]
        while not inputs[-1]:
            inputs.pop()
        out = node.output[0]
        product = onnx.NodeProto()
        product.CopyFrom(self._product)
        del product.input[:], product.output[:]
        product.input.extend(inputs)
        product.name = product_out = out if row_size is None else f"{_MARK}{self._place}product"
        product.output.append(product_out)
        self._nodes.append(product)
        if row_size is not None:
            self._nodes.append(helper.make_node("Mul", [product_out, self._copy(row_size)], [out]))
        nodes = list(graph.node)
        at = nodes.index(node)
        del graph.node[:]
        graph.node.extend([*nodes[:at], *self._nodes, *nodes[at + 1 :]])

    def _copy(self, value: str) -> str:
        """Bring a value over with everything it is made of; return its name there."""
        if value in self._names:
            return self._names[value]
        name = f"{_MARK}{value}"
        if self._small.holds(value):
            if value not in self._taken:
                array = self._small.tensor(value)
                self._taken[value] = numpy_helper.from_array(array, name)
            self._names[value] = name
            return name
        maker = self._small.maker(value)
        assert maker is not None, "a matrix reads nothing but its input, weights and constants"
        inputs = [self._copy(given) for given in maker.input]
        node = onnx.NodeProto()
        node.CopyFrom(maker)
        del node.input[:], node.output[:]
        for made in maker.output:
            self._names[made] = f"{_MARK}{self._place}{made}"
        node.input.extend(inputs)
        node.output.extend(self._names[made] for made in maker.output)
        node.name = node.output[0]
        self._nodes.append(node)
        return self._names[value]


def _branches(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Give a graph and every branch inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _branches(attribute.g)
