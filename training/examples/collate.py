"""Make a batch of examples: cut the pictures, tokenise, mark what is learnt, pad.

The inputs are those of LeRobot's MolmoAct2 processor, bit for bit, with one difference: padding is
masked. (LeRobot 0.6.1 masks it only where no beginning-of-sequence token has to be inserted.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edge.images import ImagePatches, cut_image
from edge.prompt import encode, pictures_text
from training.errors import TrainingError
from training.examples.batch import IGNORED, Batch
from training.examples.example import Example
from training.examples.input_settings import InputSettings, open_tokenizer, read_input_settings

# What the model reads for each of a pixel's levels: mean and standard deviation are 0.5.
_LEVELS = np.arange(256, dtype=np.float32) / np.float32(255) * np.float32(2) - np.float32(1)


class ExampleError(TrainingError):
    """An example that the checkpoint has no room for."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One example, tokenised."""

    tokens: np.ndarray  # (tokens,) int64
    is_image: np.ndarray  # (tokens,) bool
    prompt_length: int
    images: list[ImagePatches]


class Collator:
    """Turns examples into a `Batch` for one checkpoint; its length is a multiple of `lengths`."""

    def __init__(self, checkpoint: Path, lengths: int = 1) -> None:
        self._lengths = lengths
        self.settings: InputSettings = read_input_settings(checkpoint)
        self._tokenizer, self._ids = open_tokenizer(checkpoint)

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Make the batch; raise `ExampleError` for an example that does not fit."""
        rows = [self._row(example) for example in examples]
        inputs = self._text_inputs(rows)
        inputs.update(_image_inputs([image for row in rows for image in row.images]))
        labels = torch.full_like(inputs["input_ids"], IGNORED)
        for index, row in enumerate(rows):
            answer = slice(row.prompt_length, len(row.tokens))
            labels[index, answer] = inputs["input_ids"][index, answer]
        actions, dim_is_pad, horizon_is_pad = self._chunks(examples)
        return Batch(
            model_inputs=inputs,
            labels=labels,
            actions=actions,
            dim_is_pad=dim_is_pad,
            horizon_is_pad=horizon_is_pad,
            has_actions=torch.tensor([example.chunk is not None for example in examples]),
            numbers=torch.tensor([example.number for example in examples], dtype=torch.int64),
            sources=tuple(example.source for example in examples),
        )

    def _row(self, example: Example) -> _Row:
        images = [cut_image(image, self.settings.image) for image in example.images]
        text = pictures_text(images, self.settings.prompt) + example.question
        prompt = encode(self._tokenizer, text, self._ids.bos, self._ids.image)
        answer = np.array(self._tokenizer.encode(example.answer).ids, np.int64)
        tokens = np.concatenate([prompt.tokens, answer])
        if len(tokens) > self.settings.max_tokens:
            raise ExampleError(
                f"{_name(example)} has {len(tokens)} tokens; the checkpoint takes "
                f"{self.settings.max_tokens}: use fewer pictures or shorter texts"
            )
        is_image = np.isin(tokens, self._ids.image)
        return _Row(tokens, is_image, len(prompt.tokens), images)

    def _text_inputs(self, rows: list[_Row]) -> dict[str, torch.Tensor]:
        longest = max(len(row.tokens) for row in rows)
        shape = (len(rows), longest + -longest % self._lengths)
        tokens = np.full(shape, self._ids.pad, np.int64)
        attended = np.zeros(shape, np.int64)
        is_image = np.zeros(shape, bool)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = row.tokens
            attended[index, : len(row.tokens)] = 1
            is_image[index, : len(row.tokens)] = row.is_image
        return {
            "input_ids": torch.from_numpy(tokens),
            "attention_mask": torch.from_numpy(attended),
            "token_type_ids": torch.from_numpy(is_image),
        }

    def _chunks(
        self, examples: Sequence[Example]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        horizon, dims = self.settings.max_horizon, self.settings.max_action_dim
        actions = np.zeros((len(examples), horizon, dims), np.float32)
        dim_is_pad = np.ones((len(examples), dims), bool)
        horizon_is_pad = np.ones((len(examples), horizon), bool)
        for index, example in enumerate(examples):
            if example.chunk is None:
                continue
            steps, width = example.chunk.actions.shape
            if steps > horizon or width > dims:
                raise ExampleError(
                    f"{_name(example)} has a chunk of {steps} steps x {width} dims; the checkpoint "
                    f"takes {horizon} x {dims}"
                )
            actions[index, :steps, :width] = example.chunk.actions
            dim_is_pad[index, :width] = False
            horizon_is_pad[index, :steps] = example.chunk.horizon_is_pad
        return tuple(map(torch.from_numpy, (actions, dim_is_pad, horizon_is_pad)))


def _image_inputs(images: list[ImagePatches]) -> dict[str, torch.Tensor]:
    if not images:
        return {}
    patches = np.concatenate([image.patches for image in images])
    pooling = np.concatenate([image.pooling for image in images])
    grids = np.array([(*image.overview, *image.detail) for image in images], np.int64)
    crops = np.array([len(image.patches) for image in images], np.int64)
    return {
        "pixel_values": torch.from_numpy(_LEVELS[patches]),
        "image_token_pooling": torch.from_numpy(pooling),
        "image_grids": torch.from_numpy(grids),
        "image_num_crops": torch.from_numpy(crops),
    }


def _name(example: Example) -> str:
    return f"example {example.number} of {example.source}"
