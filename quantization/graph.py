"""Write an ONNX graph node by node, weights streamed to a data file beside it.

Nothing larger than one matrix is held: each weight goes to `<name>.data` as soon as it is packed.
Graphs use opset 23 and the `com.microsoft` matrix kernels, which onnxruntime 1.23 (the newest for
Python 3.10) already loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.manifest import LayerEntry
from quantization.calibration.calibration_file import Calibration
from quantization.calibration.rounding import RecordedMoments
from quantization.errors import BuildError
from quantization.formats import INT8_STATIC, Format, Packed, pack
from quantization.recipes import Recipe

OPSET, IR_VERSION = 23, 10
MICROSOFT = "com.microsoft"
_INLINE_BYTES = 1024  # smaller constants stay in the graph file, where shape inference sees them
_ALIGN_BYTES = 64
_MIDDLE = 128  # 8-bit activations lie evenly around it
_SMALLEST_ROW = 1e-20  # stands for the size of a row of zeros
_INT8_ACTIVATIONS = 4  # MatMulNBits accuracy level: 8-bit activations, 32-bit sums

FLOAT, INT64, BOOL, UINT8 = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.UINT8,
)


class GraphWriter:
    """Build one graph of a bundle; values are referred to by name (str)."""

    def __init__(
        self,
        name: str,
        directory: Path,
        recipe: Recipe,
        calibration: Calibration | None = None,
    ) -> None:
        """Begin a graph; with a `calibration` what was recorded decides how matrices are stored."""
        self.name = name
        self.layers: dict[str, LayerEntry] = {}
        self._directory, self._recipe = directory, recipe
        self._calibration = calibration
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._data_name = f"{name}.onnx.data"
        self._data = (directory / self._data_name).open("wb")
        self._counts: dict[str, int] = {}
        self._quantised: dict[str, tuple[str, str]] = {}
        self._stepped: dict[str, tuple[str, str]] = {}
        self._in_branch = False
        self._input_power: dict[str, np.ndarray] = {}

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input; names in `shape` are dynamic sizes."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Declare a value as a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one result and return the result's name."""
        return self.ops(kind, *inputs, out=[out or self._fresh(kind)], **attributes)[0]

    def ops(self, kind: str, *inputs: str, out: list[str] | int, **attributes: Any) -> list[str]:
        """Add a node with several results; `out` gives their names or their number."""
        names = [self._fresh(kind) for _ in range(out)] if isinstance(out, int) else out
        domain = attributes.pop("domain", "")
        node = helper.make_node(kind, inputs, names, name=names[0], domain=domain, **attributes)
        self._nodes.append(node)
        return names

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Add a small constant and return its name."""
        return self.weight(self._fresh("constant"), np.asarray(value, dtype))

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add an initializer: small ones in the graph, large ones in the data file."""
        if name in self._initializers:
            return name
        array = np.ascontiguousarray(array)
        if array.nbytes <= _INLINE_BYTES:
            self._initializers[name] = numpy_helper.from_array(array, name)
            return name
        self._data.write(b"\0" * (-self._data.tell() % _ALIGN_BYTES))
        tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        place = {"location": self._data_name, "offset": self._data.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(array.data)
        self._initializers[name] = tensor
        return name

    def linear(
        self,
        x: str,
        part: str,
        matrix: np.ndarray,
        bias: np.ndarray | None = None,
        out: str | None = None,
        row_size: str | None = None,
    ) -> str:
        """Multiply by a matrix, (outputs, inputs) float32, in the format the recipe gives it.

        `row_size` is what `x` lacks as a factor of its rows, from `linear_of_unit_rows`.
        """
        added = "" if bias is None else self.weight(f"{part}.bias", bias)
        form = self._form(part, matrix)
        out = out or f"{part}.out"
        if form.block and row_size is None:  # the kernel adds the bias itself
            return self._product(x, part, matrix, added, out)[0]
        product, size = self._product(x, part, matrix, "", None if added or row_size else out)
        sizes = [name for name in (size, row_size) if name]
        if sizes:
            factor = sizes[0] if len(sizes) == 1 else self.op("Mul", *sizes)
            product = self.op("Mul", product, factor, out=None if added else out)
        return self.op("Add", product, added, out=out) if added else product

    def expect(self, x: str, power: np.ndarray) -> str:
        """Say what square to expect of each channel of `x`, for matrices that `x` will meet.

        A norm's output is known up to a factor before any data is seen: its scale and shift say
        which channels are large, and so which weights must be stored well.
        """
        self._input_power[x] = power
        return x

    def linear_of_unit_rows(self, x: str, part: str, matrix: np.ndarray) -> tuple[str, str | None]:
        """Multiply, but leave out the factor of each row that 8-bit activations were divided by.

        Returns the product and that factor, None when nothing was left out.
        """
        return self._product(x, part, matrix, "", None)

    def _form(self, part: str, matrix: np.ndarray) -> Format:
        return self._recipe(f"{self.name}/{part}", matrix.shape)

    def _product(
        self, x: str, part: str, matrix: np.ndarray, bias: str, out: str | None
    ) -> tuple[str, str | None]:
        path, form = f"{self.name}/{part}", self._form(part, matrix)
        packed = self._pack(x, path, matrix, form)
        self.layers[path] = LayerEntry(
            self.name,
            matrix.size,
            packed.size_bytes,
            form.name,
            round(packed.relative_error, 6),
            round(packed.rounding_error, 6),
        )
        weight = self.weight(f"{part}.weight", packed.weight)
        if form.bits == 32:
            return self.op("MatMul", x, weight, out=out), None
        scale = self.weight(f"{part}.scale", packed.scale)
        if form.static:
            return self._static_product(x, path, matrix, weight, scale, out), None
        if not form.block:
            codes, size = self._int8_rows(x)
            step, middle = self.constant(1 / 127, np.float32), self.constant(_MIDDLE, np.uint8)
            inputs = (codes, weight, step, scale, middle)
            return self.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT), size
        zero_point = ""
        if packed.zero_point is not None:
            zero_point = self.weight(f"{part}.zero_point", packed.zero_point)
        inputs = [x, weight, scale, zero_point, "", bias]
        while not inputs[-1]:
            inputs.pop()
        product = self.op(
            "MatMulNBits",
            *inputs,
            out=out,
            domain=MICROSOFT,
            K=matrix.shape[1],
            N=matrix.shape[0],
            bits=form.bits,
            block_size=form.block,
            accuracy_level=_INT8_ACTIVATIONS,
        )
        return product, None

    def _pack(self, x: str, path: str, matrix: np.ndarray, form: Format) -> Packed:
        """Store a matrix, by what was recorded of its inputs if anything was."""
        recorded = None
        if form.bits < 32 and self._calibration is not None:
            inputs = matrix.shape[1]
            moments = self._calibration.statistics(path, inputs).moments
            recorded = RecordedMoments(moments, inputs)
        return pack(matrix, form, self._input_power.get(x), recorded)

    def _static_product(
        self, x: str, path: str, matrix: np.ndarray, weight: str, scale: str, out: str | None
    ) -> str:
        """Multiply in 8 bits, the step of the activations known beforehand.

        Quantise, dequantise, multiply (QDQ): kernels are left to whoever loads it, and symmetric
        as TensorRT wants it. The two are those of onnxruntime's own domain, because 1.23 has no
        QuantizeLinear of opset 23. Within a branch the kernel is named outright: onnxruntime 1.31
        fails there on weights from outside ("TransposeDQWeightsForMatMulNBits Missing required
        weight").
        """
        if self._calibration is None:
            raise BuildError(
                f"{path}: {INT8_STATIC.name} needs the range of its inputs; take one with "
                "'molmoact-quantize calibrate' and give it with --calibration"
            )
        middle = self.constant(_MIDDLE, np.uint8)
        if x not in self._stepped:
            limit = max(self._calibration.limit(path), _SMALLEST_ROW)
            step = self.constant(limit / 127, np.float32)
            codes = self.op("QuantizeLinear", x, step, middle, domain=MICROSOFT)
            self._stepped[x] = codes, step
        codes, step = self._stepped[x]
        if self._in_branch:
            inputs = (codes, weight, step, scale, middle)
            return self.op("MatMulIntegerToFloat", *inputs, out=out, domain=MICROSOFT)
        rows = self.op("DequantizeLinear", codes, step, middle, domain=MICROSOFT)
        zeros = self.weight(f"zeros.{len(matrix)}", np.zeros(len(matrix), np.int8))
        stored = self.op("DequantizeLinear", weight, scale, zeros, domain=MICROSOFT, axis=1)
        return self.op("MatMul", rows, stored, out=out)

    def _int8_rows(self, x: str) -> tuple[str, str]:
        """Quantise activations to 8 bits, a scale a row; return codes and each row's size.

        A token with huge activations costs the others no precision, and a row comes out the same
        whatever rows keep it company: draft and verify rests on that.
        """
        if x not in self._quantised:
            axis = self.constant([-1])
            high = self.op("ReduceMax", x, axis, keepdims=1)
            low = self.op("Neg", self.op("ReduceMin", x, axis, keepdims=1))
            size = self.op("Max", high, low, self.constant(_SMALLEST_ROW, np.float32))
            step, middle = self.constant(1 / 127, np.float32), self.constant(_MIDDLE, np.uint8)
            unit = self.op("Div", x, size)
            codes = self.op("QuantizeLinear", unit, step, middle, domain=MICROSOFT)
            self._quantised[x] = codes, size
        return self._quantised[x]

    def rms_norm(self, x: str, scale: str, epsilon: float, out: str | None = None) -> str:
        """Divide by the root mean square along the last axis, then multiply by `scale`."""
        return self.op("RMSNormalization", x, scale, out=out, axis=-1, epsilon=epsilon)

    def head_norm(
        self, x: str, heads: int, head_dim: int, scale: np.ndarray | None, epsilon: float, part: str
    ) -> str:
        """Normalise each head of x, (1, T, heads * head_dim), on its own."""
        split = self.op("Reshape", x, self.constant([0, 0, heads, head_dim]))
        ones = np.ones(head_dim, np.float32)
        weight = self.weight(
            part if scale is not None else f"ones.{head_dim}", ones if scale is None else scale
        )
        normed = self.rms_norm(split, weight, epsilon)
        return self.op("Reshape", normed, self.constant([0, 0, heads * head_dim]))

    def silu(self, x: str) -> str:
        """x * sigmoid(x)."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    @contextmanager
    def branch(self) -> Iterator[list[onnx.NodeProto]]:
        """Collect the nodes added inside; give them to `conditional`."""
        outer, known, stepped = self._nodes, dict(self._quantised), dict(self._stepped)
        was_in_branch = self._in_branch
        self._nodes, self._in_branch = [], True
        try:
            yield self._nodes
        finally:  # what was made inside is not seen outside
            self._nodes, self._quantised, self._stepped = outer, known, stepped
            self._in_branch = was_in_branch

    def conditional(
        self,
        condition: str,
        then: tuple[list[onnx.NodeProto], Sequence[str]],
        otherwise: tuple[list[onnx.NodeProto], Sequence[str]],
        out: list[str],
    ) -> None:
        """Run one of two (nodes, values) branches; `out` names the values for the outside."""
        branches = {
            name: helper.make_graph(
                nodes, name, [], [helper.make_tensor_value_info(v, FLOAT, None) for v in values]
            )
            for name, (nodes, values) in (("then_branch", then), ("else_branch", otherwise))
        }
        self.ops("If", condition, out=out, **branches)

    def save(self) -> list[Path]:
        """Write the graph; return the files written."""
        self._data.close()
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initializers.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=IR_VERSION,
            producer_name="molmoact-edge",
        )
        path = self._directory / f"{self.name}.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        return [path, self._directory / self._data_name]

    def _fresh(self, kind: str) -> str:
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{kind}_{count}"
