"""Put a verdict into a bundle's manifest: one gate at a time, and whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edge.bundle import verify_files
from edge.gate_entry import GateEntry, entry_digest
from edge.manifest import MANIFEST_NAME, Manifest, read_manifest
from quantization.errors import BuildError

_UNFINISHED = f".{MANIFEST_NAME}.judged"


@contextmanager
def only_gate(bundle: Path) -> Iterator[None]:
    """Keep other gates off a bundle; raise `BuildError` when one is at it or it is read-only.

    Raises `BundleError` when it is no bundle.
    """
    read_manifest(bundle)
    if not os.access(bundle, os.W_OK):
        raise BuildError(f"{bundle}: cannot be written, so no verdict can be kept; copy it first")
    handle = os.open(bundle, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"{bundle}: another gate is judging it; wait for it") from None
        yield
    finally:
        os.close(handle)


def write_entry(bundle: Path, judged: Manifest, entry: GateEntry) -> Manifest:
    """Write `entry` into the manifest that was `judged`; return the new one.

    Call it inside `only_gate`. The old manifest is replaced in one step. Raises `BuildError` when
    the bundle is not what was judged any more.
    """
    now = read_manifest(bundle)
    if replace(now, gate=None) != replace(judged, gate=None):
        raise BuildError(f"{bundle}: was changed while it was judged; judge it again")
    verify_files(bundle, now)
    manifest = replace(judged, gate=entry)
    manifest = replace(manifest, gate=replace(entry, sha256=entry_digest(manifest)))
    unfinished = bundle / _UNFINISHED
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(manifest.to_json())
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(bundle / MANIFEST_NAME)
    handle = os.open(bundle, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return manifest
