"""Open a bundle: believe only its manifest, and check every file against it.

A digest is checked once. That a file was good is remembered by device, inode, size, change and
modification time under the user's cache folder, so the next start does not read gigabytes again;
whatever touches the file makes it checked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edge import action_tokens
from edge.action_tokens import ActionTokenizer
from edge.errors import ActionTokensError, BundleError, one_line
from edge.external_data import check_external_data
from edge.json_file import read_json
from edge.manifest import (
    ACTION_TOKENIZER,
    CONTINUOUS,
    DISCRETE,
    MANIFEST_NAME,
    Manifest,
    ModelEntry,
    read_manifest,
)
from edge.normalization import RobotTag, parse_tags
from edge.prompt import IMAGE_TOKENS

VISION, DECODER, CONTEXT, EXPERT = "vision.onnx", "decoder.onnx", "context.onnx", "expert.onnx"
PREFILL = "prefill.onnx"  # only where the recipe gives long passes weights of their own
EMBEDDINGS, TOKENIZER, NORM_STATS = "embeddings.bin", "tokenizer.json", "norm_stats.json"
GRAPHS = (VISION, DECODER, CONTEXT, EXPERT)  # the last two for continuous actions only
REQUIRED_FILES = (*GRAPHS, EMBEDDINGS, TOKENIZER, NORM_STATS)
_ACTION_TOKENIZER_FILES = tuple(
    f"{ACTION_TOKENIZER}/{name}"
    for name in (action_tokens.TOKENIZER, action_tokens.PROCESSOR_CONFIG)
)
_CHUNK_BYTES = 4 << 20
_MAX_STATS_BYTES = 64 << 20
_SETTLED_S = 2.0  # a file changed more recently could change again within one clock tick


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle."""

    path: Path
    manifest: Manifest
    tokenizer: Tokenizer
    tags: dict[str, RobotTag]
    embeddings: EmbeddingTable
    action_tokenizer: ActionTokenizer | None  # None without discrete actions


class EmbeddingTable:
    """The token embeddings, memory-mapped: only rows that a prompt names are read."""

    def __init__(self, path: Path, model: ModelEntry) -> None:
        self._path = path
        self._bfloat16 = model.embedding_dtype == "bfloat16"
        dtype = np.uint16 if self._bfloat16 else np.float32
        shape = (model.embedding_rows, model.width)
        expected = shape[0] * shape[1] * np.dtype(dtype).itemsize
        if path.stat().st_size != expected:
            raise BundleError(
                f"{path}: {path.stat().st_size} bytes, {shape} {model.embedding_dtype} needs "
                f"{expected}; build the bundle again"
            )
        self._table = np.memmap(path, dtype=dtype, mode="r", shape=shape)

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """Look up (n,) token ids; (n, width) float32, owned by the caller."""
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self._table):
            raise BundleError(
                f"{self._path}: token {tokens.max()} is outside its {len(self._table)} rows; "
                f"{TOKENIZER} belongs to another model"
            )
        rows = self._table[tokens]
        if self._bfloat16:
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(rows)


def open_bundle(path: str | Path, *, trust_memory: bool = True) -> Bundle:
    """Verify and open a bundle; raise `BundleError` that names the file at fault.

    With `trust_memory` False every digest is computed again, whatever an earlier check remembers.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name in _needed_files(manifest.model):
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST_NAME}: files lacks {name}; build the bundle again")
    verify_files(path, manifest, trust_memory=trust_memory)
    model = manifest.model
    for name in graph_files(manifest):
        check_external_data(path / name, manifest.files)
    stats = read_json(path / NORM_STATS, _MAX_STATS_BYTES)
    tags = parse_tags(stats, model.max_action_horizon, model.max_action_dim, model.n_obs_steps)
    tokenizer = _open_tokenizer(path / TOKENIZER, manifest)
    action_tokenizer = None
    if DISCRETE in model.actions:
        action_tokenizer = _open_action_tokenizer(path / ACTION_TOKENIZER, model)
    embeddings = EmbeddingTable(path / EMBEDDINGS, model)
    return Bundle(path, manifest, tokenizer, tags, embeddings, action_tokenizer)


def graph_files(manifest: Manifest) -> tuple[str, ...]:
    """Name the graphs of a bundle."""
    graphs = GRAPHS if CONTINUOUS in manifest.model.actions else (VISION, DECODER)
    return (*graphs, PREFILL) if PREFILL in manifest.files else graphs


def _needed_files(model: ModelEntry) -> list[str]:
    names = list(REQUIRED_FILES)
    if CONTINUOUS not in model.actions:
        names = [name for name in names if name not in (CONTEXT, EXPERT)]
    if DISCRETE in model.actions:
        names += _ACTION_TOKENIZER_FILES
    return names


def _open_action_tokenizer(folder: Path, model: ModelEntry) -> ActionTokenizer:
    try:
        tokenizer = ActionTokenizer.open(folder)
    except ActionTokensError as error:
        raise BundleError(str(error)) from None
    if tokenizer.size > model.action_codes:
        raise BundleError(
            f"{folder}: {tokenizer.size} tokens, the checkpoint has {model.action_codes} action "
            "tokens; the tokenizer belongs to another model"
        )
    return tokenizer


def _open_tokenizer(path: Path, manifest: Manifest) -> Tokenizer:
    """Open the tokenizer and compare the tokens that prompts are made of with the manifest's."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (tokenizers raises plain Exception)
        raise BundleError(f"{path}: not a tokenizer ({one_line(error)})") from None
    tokenizer.no_truncation()  # a prompt is cut or filled up by nobody
    tokenizer.no_padding()
    model, tokens = manifest.model, manifest.tokens
    if len(tokens.image) != len(IMAGE_TOKENS):
        raise BundleError(
            f"{path.parent / MANIFEST_NAME}: tokens.image lists {len(tokens.image)} ids; "
            f"{len(IMAGE_TOKENS)} are needed"
        )
    expected = dict(zip(IMAGE_TOKENS, tokens.image, strict=True))
    expected |= {
        f"<state_{mark}>": None for mark in ("start", "end", 0, model.prompt.state_bins - 1)
    }
    if model.depth_cells:
        for mark in ("output", "start", "end"):
            expected[f"<depth_{mark}>"] = getattr(tokens, f"depth_{mark}")
        for code in range(model.depth_codes):
            expected[f"<depth_{code}>"] = tokens.depth_first + code
    if model.action_codes:
        expected |= {"<action_start>": tokens.action_start, "<action_end>": tokens.action_end}
        for code in range(model.action_codes):
            expected[f"<action_{code}>"] = tokens.action_first + code
    for text, token in expected.items():
        found = tokenizer.token_to_id(text)
        if found is None or token not in (None, found):
            raise BundleError(
                f"{path}: {text} is {'absent' if found is None else found}, the manifest needs "
                f"{'it' if token is None else token}; {TOKENIZER} belongs to another model"
            )
    return tokenizer


def verify_files(path: Path, manifest: Manifest, *, trust_memory: bool = True) -> None:
    """Check size and SHA-256 of every file the manifest lists."""
    memory_path = _memory_path()
    memory = _read_memory(memory_path) if trust_memory else {}
    fresh: dict[str, str] = {}
    for name, entry in sorted(manifest.files.items()):
        file = path / name
        try:
            status = file.lstat()
        except (OSError, ValueError):  # ValueError: no file can have this name
            raise BundleError(f"{file}: missing; copy or build the bundle again") from None
        if not stat.S_ISREG(status.st_mode) or (path / ACTION_TOKENIZER).is_symlink():
            raise BundleError(
                f"{file}: not a regular file; copy the bundle with what its links point to"
            )
        if status.st_size != entry.size_bytes:
            raise BundleError(
                f"{file}: {status.st_size} bytes, the manifest says {entry.size_bytes}; copy or "
                "build the bundle again"
            )
        key = _identity(status)
        if memory.get(key) != entry.sha256:
            digest = file_sha256(file)
            if digest != entry.sha256:
                raise BundleError(
                    f"{file}: altered (SHA-256 {digest[:12]}…, the manifest says "
                    f"{entry.sha256[:12]}…); copy or build the bundle again"
                )
        if time.time() - status.st_ctime > _SETTLED_S:
            fresh[key] = entry.sha256
    if any(memory.get(key) != digest for key, digest in fresh.items()):
        _write_memory(memory_path, {**_read_memory(memory_path), **fresh})


def file_sha256(path: Path) -> str:
    """Hash a file in chunks; hexadecimal SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(status: os.stat_result) -> str:
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(str(part) for part in parts)


def _memory_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "molmoact-edge" / "verified.json"


def _read_memory(path: Path) -> dict[str, str]:
    try:
        memory = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _write_memory(path: Path, memory: dict[str, str]) -> None:
    """Remember good files; without a writable cache the digests are simply computed each time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(memory))
        partial.replace(path)
    except OSError:
        return
