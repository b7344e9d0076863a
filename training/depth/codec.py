"""The depth codec as a file: pictures of depth to codes and back.

    codec = DepthCodec.open(Path("data/depth_codec"))
    codes = codec.encode(pictures)       # (n, 320, 320) uint8 -> (n, 100) int64

A folder holds `model.safetensors` and `codec.json`. The file `vae-final.pt` of MolmoAct v1 opens as
well; it is not shipped here and was not run, its layout is that of the MolmoAct2 release's script.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.depth.relative import Limits, depth_picture
from training.depth.vq_vae import CodecShape, VqVae
from training.errors import OutputExistsError, TrainingError

FORMAT = "molmoact-edge-depth-codec.v1"
_WEIGHTS, _DESCRIPTION = "model.safetensors", "codec.json"
_BATCH = 16  # pictures a pass
_MOLMOACT_NAMES = {
    "_vq_vae._embedding": "codebook.table",
    "_vq_vae._ema_cluster_size": "codebook.counts",
    "_vq_vae._ema_w": "codebook.sums",
}


class CodecError(TrainingError):
    """A depth codec is missing, damaged, or of a kind that is not known."""


class DepthCodec:
    """An open codec; the same pictures give the same codes on one machine."""

    def __init__(
        self,
        model: VqVae,
        limits: Limits | None = None,
        digest: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap `model`; `limits` are those of all its pictures, `digest` names its weights.

        `about` says how it was made, as it was given to `save`.
        """
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device, memory_format=torch.channels_last)
        self.shape = model.shape
        self.limits = limits
        self.digest = digest
        self.about = about or {}

    @classmethod
    def open(cls, path: Path) -> DepthCodec:
        """Open a codec's folder, or MolmoAct v1's `.pt` file; raise `CodecError`."""
        path = Path(path)
        if path.is_file():
            return cls(_molmoact_model(path), None, _digest(path))
        shape, limits, about = _read_description(path / _DESCRIPTION)
        weights = path / _WEIGHTS
        try:
            model = _filled(shape, load_file(weights), weights)
        except (OSError, SafetensorError) as error:
            raise CodecError(f"{weights}: cannot be read ({error}); fit the codec again") from None
        return cls(model, limits, _digest(weights), about)

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Write a codec's folder, all of it or nothing; `about` is kept in its description."""
        if folder.exists() or folder.is_symlink():
            raise OutputExistsError(folder)
        if not folder.parent.is_dir():
            raise CodecError(f"folder {folder.parent} does not exist; create it first")
        hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            state = {
                name: value.cpu().contiguous() for name, value in self._model.state_dict().items()
            }
            save_file(state, hidden / _WEIGHTS)
            content = {
                "format": FORMAT,
                "shape": asdict(self.shape),
                "limits": self.limits,
                "about": about,
            }
            (hidden / _DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
            hidden.chmod(0o755)  # mkdtemp makes it private
            os.rename(hidden, folder)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise

    def picture(self, relative: np.ndarray) -> np.ndarray:
        """Make what `encode` reads of (H, W) relative depth, (side_px, side_px) uint8."""
        return depth_picture(relative, self.shape.side_px, self.limits)

    @torch.inference_mode()
    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """Return codes of (n, side_px, side_px) uint8 pictures of depth, (n, cells) int64."""
        codes = [
            self._model.encode(signed(torch.from_numpy(batch)).to(self._device))
            for batch in _batches(pictures)
        ]
        return torch.cat(codes).reshape(len(pictures), -1).cpu().numpy()

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the pictures of (n, cells) codes, (n, side_px, side_px) float32 in 0..255."""
        grids = np.array(codes, np.int64).reshape(-1, self.shape.grid, self.shape.grid)
        pictures = [
            levels(self._model.decode(torch.from_numpy(batch).to(self._device))).cpu()
            for batch in _batches(grids)
        ]
        return torch.cat(pictures)[:, 0].numpy()


def signed(pictures: torch.Tensor) -> torch.Tensor:
    """Scale (n, H, W) uint8 to (n, 1, H, W) float32 in [-1, 1] (MolmoAct2 release)."""
    scaled = (pictures[:, None].float() / 255 - 0.5) / 0.5
    return scaled.contiguous(memory_format=torch.channels_last)


def levels(pictures: torch.Tensor) -> torch.Tensor:
    """Scale [-1, 1] back to 0..255, cutting off what lies outside; stays float32."""
    return (pictures.clamp(-1, 1) + 1) * 127.5


def _batches(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def _molmoact_model(path: Path) -> VqVae:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("module."): value for name, value in content["weights"].items()}
        state = {_MOLMOACT_NAMES.get(name, name): value for name, value in state.items()}
        hidden = state["encoder.0.weight"].shape[0]
        codes, width = state["codebook.table"].shape
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError):
        raise CodecError(
            f"{path} is not MolmoAct v1's vae-final.pt; give that file, or a folder that "
            "'molmoact-train depth fit' made"
        ) from None
    return _filled(CodecShape(hidden=hidden, codes=codes, code_width=width), state, path)


def _filled(shape: CodecShape, state: dict[str, torch.Tensor], path: Path) -> VqVae:
    model = VqVae(shape)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CodecError(
            f"{path}: weights do not fit the codec ({' '.join(str(error).split())[:200]}); "
            "fit it again"
        ) from None
    return model


def _read_description(path: Path) -> tuple[CodecShape, Limits | None, Mapping[str, Any]]:
    try:
        content = json.loads(path.read_text("utf-8"))
        shape, limits = content["shape"], content["limits"]
        fits = content["format"] == FORMAT and set(shape) == {f.name for f in fields(CodecShape)}
        fits = fits and all(type(value) is int and value > 0 for value in shape.values())
        fits = fits and (limits is None or limits[0] < limits[1])
        fits = fits and isinstance(content["about"], dict)
    except FileNotFoundError:
        raise CodecError(
            f"{path.parent} has no {path.name}; make a codec with 'molmoact-train depth fit'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CodecError(f"{path}: cannot be read ({error!r}); fit the codec again") from None
    if not fits:
        raise CodecError(f"{path}: not of format {FORMAT!r}; fit the codec again")
    return CodecShape(**shape), limits and (float(limits[0]), float(limits[1])), content["about"]


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
