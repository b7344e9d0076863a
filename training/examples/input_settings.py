"""What a checkpoint expects of its inputs: pictures, prompt, tokens, room for actions.

Read from `config.json`, `processor_config.json` and the tokenizer's two files. Only what batches
are made from is read here; the model's own loader judges the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edge.errors import BundleError, one_line, shown
from edge.images import ImageLayout
from edge.json_file import read_json
from edge.prompt import IMAGE_TOKENS, PromptFormat
from training.errors import CheckpointError

_MAX_JSON_BYTES = 64 << 20
_MEAN_STD = [0.5, 0.5, 0.5]
_CROP_MODES = ("resize", "overlap-and-resize", "overlap-and-resize-c2")


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Ids that a batch is made with."""

    bos: int
    pad: int
    image: np.ndarray  # (8,) int64, the tokens that attend to each other both ways


@dataclass(frozen=True, slots=True)
class InputSettings:
    """How a checkpoint wants its examples."""

    image: ImageLayout
    prompt: PromptFormat
    max_action_dim: int
    max_horizon: int
    max_tokens: int
    depth_cells: int  # 0 when the checkpoint has no depth
    depth_codes: int


def read_input_settings(folder: Path) -> InputSettings:
    """Read the settings of the checkpoint in `folder`; raise `CheckpointError`."""
    config = checkpoint_json(folder, "config.json")
    processor = checkpoint_json(folder, "processor_config.json")
    try:
        columns = processor.get("image_use_col_tokens", True)
        single = processor.get("use_single_crop_col_tokens")
        return InputSettings(
            image=_image_layout(folder, processor["image_processor"]),
            prompt=PromptFormat(
                wrap_setup=config.get("add_setup_tokens", True),
                wrap_control=config.get("add_control_tokens", True),
                overview_column_tokens=columns if single is None else single,
                detail_column_tokens=columns,
                low_res_start=processor.get("use_single_crop_start_token", True),
                state_bins=int(config["num_state_tokens"]),
            ),
            max_action_dim=int(config.get("max_action_dim", 32)),
            max_horizon=int(config.get("max_action_horizon", 30)),
            max_tokens=int(config["text_config"].get("max_position_embeddings", 4096)),
            depth_cells=int(config.get("num_depth_codes") or 0),
            depth_codes=int(config.get("num_depth_tokens") or 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: config.json or processor_config.json lacks or garbles {one_line(error)}; "
            "take the whole checkpoint again"
        ) from None


def open_tokenizer(folder: Path) -> tuple[Tokenizer, TokenIds]:
    """Open the tokenizer of the checkpoint in `folder`; raise `CheckpointError`."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (tokenizers raises plain Exception)
        raise CheckpointError(f"{path}: not a tokenizer ({one_line(error)})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = checkpoint_json(folder, "tokenizer_config.json")

    def token_id(token: Any) -> int:
        text = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(text) if isinstance(text, str) else None
        if found is None:
            raise CheckpointError(f"{path}: token {shown(text)} is missing")
        return found

    return tokenizer, TokenIds(
        bos=token_id(settings.get("bos_token") or settings.get("eos_token")),
        pad=token_id(settings.get("pad_token")),
        image=np.array([token_id(text) for text in IMAGE_TOKENS], np.int64),
    )


def checkpoint_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one JSON object of the checkpoint in `folder`; raise `CheckpointError`."""
    try:
        value = read_json(folder / name, _MAX_JSON_BYTES)
    except BundleError as error:
        reason = str(error).partition("; ")[0]
        raise CheckpointError(f"{reason}; give a folder in the released layout") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder / name}: {shown(value)} is not an object")
    return value


def _image_layout(folder: Path, image: dict[str, Any]) -> ImageLayout:
    for key in ("image_mean", "image_std"):
        if image.get(key, _MEAN_STD) != _MEAN_STD:
            raise CheckpointError(
                f"{folder / 'processor_config.json'}: {key} is {shown(image[key])}; only "
                f"{_MEAN_STD} is supported"
            )
    crop_mode = image.get("crop_mode", "overlap-and-resize-c2")
    if crop_mode not in _CROP_MODES:
        raise CheckpointError(
            f"{folder / 'processor_config.json'}: crop_mode is {shown(crop_mode)}; one of "
            f"{', '.join(_CROP_MODES)} is supported"
        )
    size = image.get("size") or {"height": 378, "width": 378}
    pooling = image.get("pooling_size", [2, 2])
    margins = image.get("overlap_margins", [4, 4])
    return ImageLayout(
        height=int(size["height"]),
        width=int(size["width"]),
        patch_size=int(image.get("patch_size", 14)),
        pooling_height=int(pooling[0]),
        pooling_width=int(pooling[1]),
        crop_mode="resize" if crop_mode == "resize" else "overlap-and-resize",
        max_crops=int(image.get("max_crops", 8)),
        overlap_left=int(margins[0]),
        overlap_right=int(margins[1]),
    )
