"""Ask a checkpoint questions: greedy answers, in batches, with LeRobot's model and its KV cache.

Prompts of a batch are padded behind; every answer goes on at its own prompt's position and sees no
padding, so that an answer does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import DynamicCache

from training.datasets.question_source import Question, prompt_text, read_picture
from training.examples.batch import PICTURE_INPUTS, Batch
from training.examples.collate import Collator
from training.examples.example import Example
from training.examples.input_settings import open_tokenizer
from training.examples.robot_text import END_OF_TURN
from training.model.load import load_model

MAX_TOKENS = 64  # of an answer


class Answerer:
    """A checkpoint that answers questions."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype = torch.float32) -> None:
        """Load the model, on a GPU when there is one; raise `TrainingError`."""
        self._collate = Collator(checkpoint)
        self._tokenizer, _ = open_tokenizer(checkpoint)
        self._end = self._tokenizer.token_to_id(END_OF_TURN)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load_model(checkpoint, dtype).to(self._device).eval().requires_grad_(False)

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """Answer a batch of questions, in their order."""
        examples = [
            Example(
                number=number,
                source="question",
                images=tuple(read_picture(path) for path in question.images),
                question=prompt_text(question),
                answer="",
                chunk=None,
            )
            for number, question in enumerate(questions)
        ]
        return [self._text(row) for row in self._generate(self._collate(examples))]

    @torch.inference_mode()
    def _generate(self, batch: Batch) -> list[list[int]]:
        """Give the tokens that follow each prompt, at most MAX_TOKENS."""
        inputs = batch.to(self._device).model_inputs
        seen = inputs["attention_mask"].bool()
        lengths = seen.sum(dim=1)
        cache = DynamicCache()
        hidden = self._model.model(
            inputs_embeds=self._embeddings(inputs),
            attention_mask=inputs["attention_mask"],
            token_type_ids=inputs["token_type_ids"],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last = hidden[torch.arange(len(lengths), device=self._device), lengths - 1]
        said: list[torch.Tensor] = []
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        for position in range(MAX_TOKENS):
            tokens = self._model.lm_head(last).argmax(dim=-1)
            said.append(tokens)
            ended |= tokens == self._end
            if ended.all() or position == MAX_TOKENS - 1:
                break
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
            last = self._model.model(
                input_ids=tokens[:, None],
                attention_mask=_bias(seen, last.dtype),
                position_ids=(lengths + position)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
        return torch.stack(said, dim=1).tolist()

    def _embeddings(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embed prompts; every picture goes through the image encoder as if it were alone.

        The model's own forward pass cannot take a batch in which only some prompts have pictures.
        """
        ids, model = inputs["input_ids"], self._model.model
        images = pooling = None
        if "pixel_values" in inputs:
            alone = ids.new_full((len(inputs["image_grids"]), 1), model.config.image_end_token_id)
            pictures = {name: inputs[name] for name in PICTURE_INPUTS}
            pictures["pixel_values"] = pictures["pixel_values"].to(self._model.lm_head.weight.dtype)
            images, pooling = model.merge_visual_inputs(input_ids=alone, **pictures)
        return model.build_input_embeddings(ids, images, pooling)[0]

    def _text(self, tokens: list[int]) -> str:
        if self._end in tokens:
            tokens = tokens[: tokens.index(self._end)]
        return self._tokenizer.decode(tokens, skip_special_tokens=False)


def _bias(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn (B, T) bool into what is added to one query's attention, (B, 1, 1, T)."""
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, lowest)[:, None, None]
