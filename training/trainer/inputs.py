"""What a run reads, by fingerprint: a run that goes on must find what it began with.

A fingerprint is a SHA-256 over names, sizes and both ends of the files that hold weights, rows,
questions or settings; pictures are left out. It is quick for terabytes, and tells another
checkpoint or a dataset recorded anew from the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from training.errors import TrainingError
from training.trainer.recipe import Recipe

SUFFIXES = (".json", ".jsonl", ".parquet", ".safetensors", ".mp4", ".txt")
END_BYTES = 65536


def fingerprints(recipe: Recipe, source: Path) -> dict[str, str]:
    """Give the fingerprint of everything a recipe names, by the recipe's key."""
    named = {
        "from": source,
        "norm_stats": recipe.norm_stats,
        "action_tokenizer": recipe.action_tokenizer,
        **_data(recipe.values["data"]),
    }
    return {key: fingerprint(path) for key, path in named.items() if path is not None}


def fingerprint(path: Path) -> str:
    """Give the fingerprint of a file, or of all files in a folder that are not pictures."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file.suffix not in SUFFIXES:
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
        with file.open("rb") as content:
            digest.update(content.read(END_BYTES))
            content.seek(max(0, size - END_BYTES))
            digest.update(content.read(END_BYTES))
    return digest.hexdigest()


def check_inputs(file: Path, now: Mapping[str, str], recipe: Recipe) -> None:
    """Note what a run begins with, or compare it with what was noted; raise TrainingError."""
    if not file.is_file():
        file.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{file}: not a run's inputs ({error}); start anew") from None
    changed = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
    if changed:
        raise TrainingError(
            f"{file.parent}: {', '.join(changed)} of {recipe.file} no longer hold what it began"
            " with; put that back, or start anew with another --out"
        )


def _data(data: Mapping[str, Mapping[str, object]]) -> dict[str, Path]:
    return {
        f"data.{name}.{key}": Path(str(source[key]))
        for name, source in data.items()
        for key in ("robot", "questions", "depth")
        if source.get(key) is not None
    }
