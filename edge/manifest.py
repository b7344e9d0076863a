"""What a bundle says of itself: `manifest.json` as frozen records; a loader believes only that."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from edge.errors import BundleError, shown
from edge.gate_entry import GateEntry
from edge.images import ImageLayout
from edge.json_file import read_json
from edge.manifest_limits import check_limits
from edge.prompt import PromptFormat

SCHEMA = "molmoact-edge.bundle.v3"
MANIFEST_NAME = "manifest.json"
CONTINUOUS, DISCRETE = "continuous", "discrete"  # actions by the flow expert, or as tokens
ACTION_TOKENIZER = "action_tokenizer"  # the only folder within a bundle, flat as well
MAX_CAMERAS = 5  # the release trained on at most five pictures
_MAX_MANIFEST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the bundle."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """The checkpoint the bundle was built from."""

    name: str
    sha256: str  # over every file that was read, in name order
    dtype: str


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """How one matrix is stored."""

    graph: str
    weights: int  # numbers in the source matrix
    size_bytes: int  # bytes in the bundle, scales included
    format: str  # fp32, int8 or int4-blockN
    relative_error: float  # RMS of (stored - source) over RMS of source
    rounding_error: float  # the same for plain rounding to this format


@dataclass(frozen=True, slots=True)
class RecipeEntry:
    """The recipe and what it chose for every matrix."""

    name: str
    layers: dict[str, LayerEntry]
    rules: tuple[tuple[str, ...], ...] = ()  # (pattern over paths, format); the last match decides


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """Shapes and switches that the runtime needs besides the graphs."""

    width: int
    layers: int
    head_dim: int
    kv_width: int  # key/value heads times head_dim
    rope_theta: float
    max_positions: int
    embedding_rows: int
    embedding_dtype: str  # float32 or bfloat16
    actions: tuple[str, ...]  # what the bundle can do: CONTINUOUS, DISCRETE, or both in this order
    action_codes: int  # action tokens of the checkpoint; 0: none without discrete actions
    expert_width: int  # 0 without continuous actions, as flow_steps
    max_action_horizon: int
    max_action_dim: int
    flow_steps: int
    n_obs_steps: int
    mask_action_dim_padding: bool
    hide_eos_from_expert: bool
    depth_cells: int  # 0: the checkpoint has no depth reasoning
    depth_codes: int
    depth_gate: str  # none, single or per-layer
    image: ImageLayout
    prompt: PromptFormat

    @property
    def head_rows(self) -> int:
        """Number of the tokens that can be asked for, see `head_tokens`."""
        return self.depth_codes + (self.action_codes + 3 if self.action_codes else 0)

    @property
    def usual_depth(self) -> str:
        """How depth is asked for where nothing else is said: `incremental` if there is depth."""
        return "incremental" if self.depth_cells else "off"


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """Token ids, looked up by name in the checkpoint's tokenizer when the bundle was built."""

    bos: int
    eos: int | None
    image: tuple[int, ...]
    image_patch: int
    depth_output: int | None
    depth_start: int | None
    depth_end: int | None
    depth_first: int | None
    action_start: int | None
    action_end: int | None
    action_first: int | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole bundle."""

    schema: str
    created_by: str
    source: SourceEntry
    recipe: RecipeEntry
    model: ModelEntry
    tokens: TokenEntry
    files: dict[str, FileEntry]
    gate: GateEntry | None = None  # None: never judged

    def to_json(self) -> str:
        """Write the manifest as the JSON text that `parse_manifest` reads back."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def head_tokens(model: ModelEntry, tokens: TokenEntry) -> np.ndarray:
    """Return the token of each row of the head, (head_rows,) int64.

    Depth codes come first, then the action codes, <action_start>, <action_end> and the end of turn.
    """
    parts = []
    if model.depth_codes:
        parts.append(np.arange(model.depth_codes) + tokens.depth_first)
    if model.action_codes:
        parts.append(np.arange(model.action_codes) + tokens.action_first)
        parts.append(np.array([tokens.action_start, tokens.action_end, tokens.eos]))
    return np.concatenate([np.zeros(0, np.int64), *parts])


def read_manifest(bundle: Path) -> Manifest:
    """Read `bundle/manifest.json`; raise `BundleError` that names the file and what is wrong."""
    path = bundle / MANIFEST_NAME
    if not bundle.is_dir():
        raise BundleError(f"{bundle}: no such bundle; build one with 'molmoact-quantize build'")
    payload = read_json(path, _MAX_MANIFEST_BYTES)
    return parse_manifest(payload, path)


def parse_manifest(payload: Any, path: Path) -> Manifest:
    """Check a decoded manifest against the records above; `path` is for the messages."""
    schema = payload.get("schema") if isinstance(payload, dict) else None
    if schema != SCHEMA:
        raise BundleError(
            f"{path}: schema is {shown(schema)}, this runtime reads {SCHEMA!r}; build the "
            "bundle again with this version"
        )
    manifest = _record(Manifest, payload, str(path), "manifest")
    for name in manifest.files:
        plain = name.removeprefix(f"{ACTION_TOKENIZER}/")
        if plain != Path(plain).name or name in ("", ".", "..", MANIFEST_NAME, ACTION_TOKENIZER):
            raise BundleError(f"{path}: files holds {shown(name)}; a plain file name is needed")
    check_limits(manifest, path)
    return manifest


def _record(kind: type, value: Any, path: str, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{path}: {where} is {shown(value)}; an object is needed")
    names = {field.name for field in fields(kind)}
    again = "build the bundle again with this version"
    for unknown in sorted(set(value) - names):
        raise BundleError(f"{path}: {where} has {shown(unknown)}, unknown to this runtime; {again}")
    for missing in sorted(names - set(value)):
        raise BundleError(f"{path}: {where}.{missing} is missing; {again}")
    hints = get_type_hints(kind)
    return kind(**{n: _value(hints[n], value[n], path, f"{where}.{n}") for n in sorted(names)})


def _value(hint: Any, value: Any, path: str, where: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _value(next(arg for arg in inner if arg is not type(None)), value, path, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(inner[0], item, path, where) for item in value)
    if origin is dict and isinstance(value, dict) and all(map(_printable, value)):
        return {k: _value(inner[1], item, path, f"{where}[{k!r}]") for k, item in value.items()}
    if isinstance(hint, type) and origin is None:
        if hasattr(hint, "__dataclass_fields__"):
            return _record(hint, value, path, where)
        if hint is float and type(value) is int and abs(value) < 1 << 53:
            return float(value)
        if type(value) is hint and not (hint is int and value < 0) and _printable(value):
            return value
    wanted = getattr(hint, "__name__", hint)
    raise BundleError(f"{path}: {where} is {shown(value)}; {wanted} is needed")


def _printable(value: Any) -> bool:
    """Tell whether a text is safe to show: no control characters, no line ends."""
    return not isinstance(value, str) or value.isprintable()
