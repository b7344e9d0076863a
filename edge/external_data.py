"""Which files a graph takes its weights from: they must be files that the manifest lists.

onnxruntime reads whatever path a graph names (1.23 follows `../` as well), so a weight could come
from a file that no digest covers. The runtime has no onnx package; the few fields that matter are
read here from the protobuf encoding itself (onnx.proto, field numbers below).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from edge.errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_GRAPH_BYTES = 2 << 30  # what one protobuf message may hold

# Message name -> field number -> message name of the field.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2


def check_external_data(path: Path, listed: Collection[str]) -> None:
    """Raise `BundleError` when graph `path` names a weight file that is not in `listed`."""
    if path.stat().st_size > _MAX_GRAPH_BYTES:
        raise BundleError(f"{path}: larger than {_MAX_GRAPH_BYTES} bytes; not a graph")
    try:
        locations = set(_locations("model", memoryview(path.read_bytes())))
    except (IndexError, RecursionError, ValueError):
        raise BundleError(f"{path}: not an ONNX graph; copy or build the bundle again") from None
    for location in sorted(locations):
        if location not in listed:
            raise BundleError(
                f"{path}: weights are read from {location!r}, not in the manifest; build the "
                "bundle again"
            )


def _locations(kind: str, message: memoryview) -> Iterator[str]:
    inner = _FIELDS[kind]
    for number, value in _fields(message):
        if number not in inner or value is None:
            continue
        if inner[number] != "entry":
            yield from _locations(inner[number], value)
            continue
        entry = dict(_fields(value))
        if bytes(entry.get(_KEY) or b"") == b"location":
            yield bytes(entry.get(_VALUE) or b"").decode("utf-8", "backslashreplace")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Walk one message: (field number, its bytes; None for a number)."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire, value = tag >> 3, tag & 7, None
        if wire == _VARINT:
            _, position = _varint(message, position)
        elif wire == _BYTES:
            size, position = _varint(message, position)
            value = message[position : position + size]
            position += size
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position > len(message):
            raise ValueError("a field runs past the end")
        yield number, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
