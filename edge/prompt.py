"""The words around a picture: MolmoAct2's robot prompt, character for character.

    Image 1<pictures>Image 2<pictures><|im_start|>user
    The task is to ... what action should the robot take to complete the task?<|im_end|>
    <|im_start|>assistant
    <action_output>

The wording, the clean-up of the task and the order of the image tokens are those of the MolmoAct2
release (Hugging Face export); a model sees nothing else of the instruction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from edge.images import ImagePatches

IMAGE_TOKENS = (  # tokens that attend to each other both ways during prefill
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
)
_QUESTION = "Given these, what action should the robot take to complete the task?"
_DEPTH_QUESTION = (
    "Given these, first predict the depth map of the main image and then predict the action the "
    "robot should take to complete the task?"
)
_QUOTES = "\"'`“”‘’[](){}"
_STOPS = ".,!?;:,…"
_CLOSERS = "\"'”’)]}"
_LABEL = re.compile(r"^(?:task|instruction|language[_ ]instruction|goal)\s*[:\-]\s*", re.IGNORECASE)
_PREAMBLE = re.compile(r"^(?:the\s+task\s+is\s+to|your\s+task\s+is\s+to)\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """The checkpoint's switches that change the prompt."""

    wrap_setup: bool  # put the setup text between <setup_start> and <setup_end>
    wrap_control: bool
    overview_column_tokens: bool  # close each row of the whole picture with <im_col>
    detail_column_tokens: bool  # close each row of the detail crops with <im_col>
    low_res_start: bool  # with detail crops, the whole picture opens with <low_res_im_start>
    state_bins: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenised prompt."""

    tokens: np.ndarray  # (tokens,) int64
    image_mask: np.ndarray  # (tokens,) bool, True for image tokens


def is_text(value: object) -> bool:
    """Tell a text that a tokenizer takes from anything else.

    JSON, and a command line that is not UTF-8, can hold half of a surrogate pair.
    """
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def clean_task(task: str) -> str:
    """Reduce an instruction to the form seen in training: no label, no end stop, lower case."""
    text = re.sub(r"\s+", " ", task).strip()
    before = None
    while text and text != before:
        before = text
        text = text.strip().strip(_QUOTES).strip()
        text = _LABEL.sub("", text, count=1).strip()
        text = _PREAMBLE.sub("", text, count=1).strip()
        for ending in (_STOPS, _CLOSERS, _STOPS):
            text = text.rstrip(ending).rstrip()
    sentences = [part.strip() for part in re.split(r"[.!?]+", text) if part.strip()]
    return ("; ".join(sentences) if len(sentences) > 1 else text).lower()


def state_text(state_norm: np.ndarray, bins: int) -> str:
    """Write a normalised state, (dof,) in [-1, 1], as state tokens: one bin a dimension."""
    clipped = np.clip(np.asarray(state_norm, np.float32), -1.0, 1.0)
    scaled = (clipped + np.float32(1)) / np.float32(2) * np.float32(bins - 1)
    indices = np.clip(np.rint(scaled).astype(np.int64), 0, bins - 1).reshape(-1)
    return f"<state_start>{''.join(f'<state_{index}>' for index in indices)}<state_end>"


def robot_text(
    task: str,
    state: str,
    setup: str,
    control: str,
    images: list[ImagePatches],
    with_depth: bool,
    layout: PromptFormat,
) -> str:
    """Write the whole prompt; `task` is cleaned already, `state` comes from `state_text`."""
    setup = _wrap(setup, "setup", layout.wrap_setup)
    control = _wrap(control, "control", layout.wrap_control)
    question, trigger = _QUESTION, "<action_output>"
    if with_depth:
        question, trigger = _DEPTH_QUESTION, "<depth_output><action_output>"
    return (
        f"{pictures_text(images, layout)}<|im_start|>user\n"
        f"The task is to {task}. The setup is {setup}. The current state of the robot is {state}. "
        f"The expected control mode is {control}. {question}<|im_end|>\n"
        f"<|im_start|>assistant\n{trigger}"
    )


def pictures_text(images: list[ImagePatches], layout: PromptFormat) -> str:
    """Write the image tokens of all pictures, which are numbered when there are several."""
    texts = [image_text(image, layout) for image in images]
    if len(texts) > 1:
        texts = [f"Image {number}{text}" for number, text in enumerate(texts, 1)]
    return "".join(texts)


def image_text(image: ImagePatches, layout: PromptFormat) -> str:
    """Write the image tokens of one picture: the whole picture, then its detail crops."""
    has_detail = image.detail != (0, 0)
    start = "<low_res_im_start>" if has_detail and layout.low_res_start else "<im_start>"
    text = start + _rows(image.overview, layout.overview_column_tokens) + "<im_end>"
    if has_detail:
        text += "<im_start>" + _rows(image.detail, layout.detail_column_tokens) + "<im_end>"
    return text


def encode(tokenizer: Tokenizer, text: str, bos_id: int, image_ids: np.ndarray) -> Prompt:
    """Tokenise a prompt; the beginning-of-sequence token is put in front when it is not there."""
    tokens = np.array(tokenizer.encode(text).ids, np.int64)
    if tokens.size == 0 or tokens[0] != bos_id:
        tokens = np.concatenate([[bos_id], tokens])
    return Prompt(tokens, np.isin(tokens, image_ids))


def _rows(grid: tuple[int, int], column_tokens: bool) -> str:
    row = "<im_patch>" * grid[1] + ("<im_col>" if column_tokens else "")
    return row * grid[0]


def _wrap(text: str, name: str, wanted: bool) -> str:
    start, end = f"<{name}_start>", f"<{name}_end>"
    if not text or not wanted or (text.startswith(start) and text.endswith(end)):
        return text
    return f"{start}{text}{end}"
