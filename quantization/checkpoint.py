"""Read a MolmoAct2 checkpoint in the released layout, a tensor at a time, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (lets numpy hold bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from edge.bundle import file_sha256
from edge.errors import BundleError, one_line
from edge.manifest import SourceEntry, TokenEntry
from edge.normalization import parse_tags
from edge.prompt import IMAGE_TOKENS
from quantization.config import CheckpointConfig, parse_config
from quantization.errors import BuildError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Checkpoint:
    """An open checkpoint: `config`, the files that travel along, and tensors by name.

    Raises `BuildError` when a file, tensor or token is missing, damaged or of the wrong shape.
    """

    def __init__(
        self, path: str | Path, on_read: Callable[[int], object] = lambda size_bytes: None
    ) -> None:
        """Open `path`; `on_read` hears how many bytes of tensors each read took."""
        self.path = Path(path)
        self._on_read = on_read
        if not self.path.is_dir():
            raise BuildError(f"{self.path}: no such checkpoint folder")
        self.config: CheckpointConfig = parse_config(
            self._json("config.json"), self._json("processor_config.json")
        )
        self.norm_stats = self._json(self.config.norm_stats_name)
        try:
            tags = parse_tags(
                self.norm_stats,
                self.config.max_action_horizon,
                self.config.max_action_dim,
                self.config.n_obs_steps,
            )
            json.dumps(self.norm_stats, allow_nan=False)
        except BundleError as error:
            raise BuildError(f"{self.path}: {error}") from None
        except ValueError:
            name = self.path / self.config.norm_stats_name
            raise BuildError(f"{name}: holds NaN or Infinity, which are not JSON") from None
        self.tag_names = sorted(tags)
        self._shards = self._open_shards()
        self.tokenizer_path = self._file("tokenizer.json")
        self.tokens = self._resolve_tokens()

    def names(self) -> list[str]:
        """List all tensor names."""
        return sorted(self._shards)

    def size_bytes(self) -> int:
        """Return the size of all weight files."""
        return sum(path.stat().st_size for path in {path for path, _ in self._shards.values()})

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return float32, float16 or bfloat16."""
        dtype = self._slice(name).get_dtype()
        if dtype not in _DTYPES:
            raise BuildError(f"{self.path}: tensor {name} is {dtype}; F32, F16 and BF16 are read")
        return _DTYPES[dtype]

    def tensor(self, name: str, shape: tuple[int, ...], rows: slice | None = None) -> np.ndarray:
        """Read one tensor (or some of its rows) as float32; `shape` is that of the whole tensor."""
        found = self.shape(name)
        if found != shape:
            raise BuildError(
                f"{self.path}: tensor {name} has shape {found}, config.json asks for {shape}"
            )
        width = np.dtype(self.dtype(name)).itemsize
        part = self._slice(name)[rows if rows is not None else slice(None)]
        self._on_read(part.size * width)
        return np.ascontiguousarray(part.astype(np.float32))

    def has(self, name: str) -> bool:
        """Tell whether the checkpoint holds a tensor of this name."""
        return name in self._shards

    def source(self) -> SourceEntry:
        """Identify the checkpoint: a digest over every file that was read."""
        files = {self.path / "config.json", self.path / "processor_config.json"}
        files |= {self.tokenizer_path, self.path / self.config.norm_stats_name}
        files |= {Path(shard) for shard, _ in self._shards.values()}
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
        dtype = self.dtype("model.transformer.wte.embedding")
        return SourceEntry(self.path.resolve().name, digest.hexdigest(), dtype)

    def _slice(self, name: str) -> Any:
        if name not in self._shards:
            raise BuildError(f"{self.path}: tensor {name} is missing; is a shard absent?")
        return self._shards[name][1].get_slice(name)

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise BuildError(f"{path}: missing; a checkpoint in the released layout has it")
        return path

    def _json(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        try:
            payload = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BuildError(f"{path}: not JSON ({error})") from None
        if not isinstance(payload, dict):
            raise BuildError(f"{path}: a JSON object is needed")
        return payload

    def _open_shards(self) -> dict[str, tuple[Path, Any]]:
        if (self.path / _INDEX).is_file():
            weight_map = self._json(_INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise BuildError(f"{self.path / _INDEX}: weight_map is missing or empty")
            files = sorted(set(weight_map.values()))
        else:
            weight_map, files = None, [_SINGLE]
        shards: dict[str, tuple[Path, Any]] = {}
        for file in files:
            path = self._file(file)
            try:
                reader = safe_open(path, framework="numpy")
            except (SafetensorError, OSError, ValueError) as error:
                raise BuildError(
                    f"{path}: damaged or truncated ({error}); fetch the file again"
                ) from None
            names = set(reader.keys())
            for name, home in (weight_map or {}).items():
                if home == file and name not in names:
                    raise BuildError(f"{path}: tensor {name} is missing; fetch the file again")
            shards.update(dict.fromkeys(names, (path, reader)))
        return shards

    def _resolve_tokens(self) -> TokenEntry:
        try:
            tokenizer = Tokenizer.from_file(str(self.tokenizer_path))
        except Exception as error:  # noqa: BLE001  (tokenizers raises plain Exception)
            raise BuildError(
                f"{self.tokenizer_path}: not a tokenizer ({one_line(error)}); fetch the file again"
            ) from None
        settings = self._json("tokenizer_config.json")
        bos, eos = (_token_text(settings.get(key)) for key in ("bos_token", "eos_token"))

        def token_id(text: str | None, stated: int | None = None) -> int:
            found = tokenizer.token_to_id(text) if text else None
            if found is None:
                raise BuildError(f"{self.tokenizer_path}: token {text} is missing")
            if stated is not None and stated != found:
                raise BuildError(
                    f"{self.path}: config.json gives {text} the id {stated}, tokenizer.json {found}"
                )
            return found

        def block(name: str, count: int, stated: int | None) -> int:
            """Return the id of <name_0>; all `count` tokens must follow each other."""
            first = token_id(f"<{name}_0>", stated)
            for index in range(count):
                found = token_id(f"<{name}_{index}>")
                if found != first + index:
                    raise BuildError(
                        f"{self.tokenizer_path}: <{name}_{index}> has id {found}, not "
                        f"{first + index}; {name} tokens must be contiguous"
                    )
            return first

        config, stated = self.config, self.config.token_ids
        block("state", config.prompt.state_bins, stated["state_token_start_id"])
        for text in ("<state_start>", "<state_end>", "<action_output>", "<|im_start|>"):
            token_id(text)
        depth: dict[str, int | None] = dict.fromkeys(("output", "start", "end", "first"))
        if config.depth_cells:
            for key in ("output", "start", "end"):
                depth[key] = token_id(f"<depth_{key}>", stated[f"depth_{key}_token_id"])
            depth["first"] = block("depth", config.depth_codes, stated["depth_token_start_id"])
        action: dict[str, int | None] = dict.fromkeys(("start", "end", "first"))
        if config.action_codes:
            for key in ("start", "end"):
                action[key] = token_id(f"<action_{key}>", stated[f"action_{key}_token_id"])
            action["first"] = block("action", config.action_codes, stated["action_token_start_id"])
        return TokenEntry(
            bos=token_id(bos or eos),
            eos=stated["eos_token_id"],
            image=tuple(token_id(text) for text in IMAGE_TOKENS),
            image_patch=token_id("<im_patch>", stated["image_patch_id"]),
            depth_output=depth["output"],
            depth_start=depth["start"],
            depth_end=depth["end"],
            depth_first=depth["first"],
            action_start=action["start"],
            action_end=action["end"],
            action_first=action["first"],
        )


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
